"""Who may talk to whom: the cluster's certificate authority, and TLS that both sides verify."""
