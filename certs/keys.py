"""Keys and signing requests: P-256, made here, sent nowhere.

A request of ours is bare: a key and a proof that the sender holds it. Who it is for is said by the token or
the SVID it comes with, never by the request, so one that asks for a name is refused rather than ignored.
Sources: RFC 2986 (PKCS #10), RFC 5958 (PKCS #8).
"""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hauberk.certs import pem
from hauberk.certs.errors import CsrRefused, KeyRefused

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
MAX_CSR_BYTES = 8 * 1024
_RSA_BITS = range(2048, 4097)


def generate() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key from the operating system's randomness."""
    return ec.generate_private_key(ec.SECP256R1())


def to_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """The key as PKCS #8 PEM, encrypted if there is a passphrase."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def from_pem(data: bytes, passphrase: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in `data`. Raises KeyRefused if it is unreadable, locked or of another kind."""
    try:
        key = serialization.load_pem_private_key(data, passphrase)
    except TypeError as error:
        why = "key is encrypted and no passphrase was given" if passphrase is None else "key is not encrypted"
        raise KeyRefused(why) from error
    except (ValueError, UnsupportedAlgorithm):
        # No `from`: the text of cryptography's error is no secret, but nothing says it never will be.
        raise KeyRefused("key is unreadable, or its passphrase is another") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyRefused("key is not ec p-256")
    return key


def csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A bare signing request for `key`, DER: no subject, no extensions."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def check_csr(der: bytes) -> PublicKey:
    """The public key a bare request proves possession of.

    Raises CsrRefused if it is larger than 8 KiB, unreadable, not signed by its own key, of a key neither
    P-256 nor RSA of 2048 to 4096 bits, or if it asks for anything: a subject, a name, an extension, an
    attribute.
    """
    if len(der) > MAX_CSR_BYTES:
        raise CsrRefused(f"request is larger than {MAX_CSR_BYTES} bytes")
    try:
        request = x509.load_der_x509_csr(der)
        asks = len(request.subject) > 0 or len(request.attributes) > 0
        key = request.public_key()
        proven = request.is_signature_valid
    except pem.UNREADABLE as error:
        raise CsrRefused("request is unreadable") from error
    if asks:
        raise CsrRefused("request asks for another name: its subject and attributes must be empty")
    if not proven:
        raise CsrRefused("request is not signed by its own key")
    return _accepted(key)


def _accepted(key: object) -> PublicKey:
    match key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            return key
        case rsa.RSAPublicKey(key_size=bits) if bits in _RSA_BITS:
            return key
        case _:
            raise CsrRefused("request's key is neither ec p-256 nor rsa of 2048 to 4096 bits")
