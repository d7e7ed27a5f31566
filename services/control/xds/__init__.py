"""What xDS clients are sent, built from what they may see. For gRPC clients; Envoy needs builders of its own.

A cluster of one kind, sent to a client of the other, is accepted and verifies nobody: nothing here may reach
an Envoy.
"""
