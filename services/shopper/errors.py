"""What the shopper finds wrong.

MeshError
+-- ShopAmiss       something did not go as it should; `hauberk.run` prints it and exits 1
"""

from hauberk.errors import MeshError


class ShopAmiss(MeshError):
    """One line: what was expected, and what came."""
