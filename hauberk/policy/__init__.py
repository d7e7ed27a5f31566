"""The canonical import path of hauberk/policy/v1/policy.proto."""
