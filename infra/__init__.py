"""Storage, clusters, jobs, logs and reports; knows no radar."""
