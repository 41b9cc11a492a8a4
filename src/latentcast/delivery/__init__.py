"""One request from prompt to deadline: sender, receiver, and the virtual time that runs them."""
