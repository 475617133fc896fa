"""What options add: who may come in, proxies, captures, metrics, workers, other nodes."""
