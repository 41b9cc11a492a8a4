"""How good a picture is beside the one that it stands for."""
