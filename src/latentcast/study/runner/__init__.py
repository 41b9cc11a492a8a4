"""Studies: a typed configuration, tasks on processes or a cluster, and the tables that come of them."""
