"""What can be refused about identities, keys, certificates and tokens.

    CertsError
    ├── IdentityError          a name or certificate that is no acceptable SPIFFE identity
    ├── KeyRefused             a private or public key we do not use
    ├── CsrRefused             a signing request that is broken, or asks for more than a signature
    ├── SvidError              a key and chain that do not make an SVID
    │   ├── SvidExpired
    │   └── SvidNotYetValid
    ├── ChainError             a chain that does not lead to an anchor of its own trust domain
    ├── BundleError            anchors that cannot be trusted as given
    ├── AuthorityError         something the authority cannot or will not do now
    ├── ScheduleError          a lifetime too short for its certificates to rotate in time
    ├── TokenRefused
    │   ├── TokenMalformed
    │   ├── TokenUnknown
    │   ├── TokenSpent
    │   └── TokenExpired
    └── StoreError             files that are missing, loose, torn or not ours; the message names the remedy

`str()` is one lower-case line. No message ever holds a key or a token.
"""


class CertsError(Exception):
    """Anything this package refuses."""


class IdentityError(CertsError):
    """A name or a certificate that is no acceptable SPIFFE identity."""


class KeyRefused(CertsError):
    """A key of the wrong kind, too weak, unreadable or locked."""


class CsrRefused(CertsError):
    """A signing request that is broken, or asks for another name."""


class SvidError(CertsError):
    """A key and a chain that do not make an SVID."""


class SvidExpired(SvidError):
    """The SVID's life is over; whoever holds it must stop using it."""


class SvidNotYetValid(SvidError):
    """The SVID's life has not begun: most likely one of two clocks is wrong."""


class ChainError(CertsError):
    """A chain that does not lead to an anchor of its own trust domain."""


class BundleError(CertsError):
    """Anchors that cannot be trusted as given; an empty bundle is one."""


class AuthorityError(CertsError):
    """Something the authority cannot or will not do now; the message names the next step."""


class ScheduleError(CertsError):
    """A lifetime too short for certificates and connections to be replaced before they end."""


class TokenRefused(CertsError):
    """A join token that admits nobody."""


class TokenMalformed(TokenRefused):
    """Not a join token at all."""


class TokenUnknown(TokenRefused):
    """Well-formed, but nobody minted it here."""


class TokenSpent(TokenRefused):
    """Used before; a join token works once."""


class TokenExpired(TokenRefused):
    """Its time to join has passed."""


class StoreError(CertsError):
    """Files that are missing, loose, torn or not ours."""
