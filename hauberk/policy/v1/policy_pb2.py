"""The policy options under their canonical name, for stubs that stock protoc or buf generated elsewhere."""

from hauberk.protos.hauberk.policy.v1.policy_pb2 import DESCRIPTOR, Deadline, Policy, defaults, policy

__all__ = ["DESCRIPTOR", "Deadline", "Policy", "defaults", "policy"]
