"""The live service: wall-clock time, real sockets, real devices."""
