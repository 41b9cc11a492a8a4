"""Links that fade in real time: rate schedules, a token bucket, and what sends real sockets through them."""
