"""The PKI of the mesh: who someone is, how it is proven, whom we trust. Knows grpc only in credentials.py."""
