"""What hauberk does for a call besides what cannot be turned off, by the names that `--without` takes."""

ALWAYS = ("identity from the certificate", "authorization of the caller", "load shedding")
FEATURES = {
    "token": "cached token, bound to the certificate (ES256)",
    "roles": "authorization by its roles and scopes",
    "deadline": "deadline",
    "quota": "quota",
    "validation": "validation of a message of five fields",
    "metrics": "metrics",
    "log": "access log",
    "spans": "spans of sampled calls, sent by OTLP",
}
ON = (*ALWAYS, *FEATURES.values())

Without = frozenset[str]


def left_out(text: str) -> Without:
    """The features that "token,quota" names, or "all". Raises ValueError for one that there is not."""
    names = frozenset(part.strip() for part in text.split(",") if part.strip())
    if names == {"all"}:
        return frozenset(FEATURES)
    if unknown := names - FEATURES.keys():
        raise ValueError(f"no such feature: {', '.join(sorted(unknown))}; there are {', '.join(FEATURES)}")
    return names | {"roles"} if "token" in names else names
