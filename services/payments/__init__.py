"""The payments: money set aside, taken and given back."""
