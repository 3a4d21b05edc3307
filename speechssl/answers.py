"""Messages for HTTP errors of downloads, with what to check."""

from http import HTTPStatus

_CHECK = {
    401: "a login is needed, or the given one is wrong",
    403: "no permission: check the login, and whether its owner must allow it first",
    404: "check the address",
    410: "it was removed; check for a newer address",
    429: "too many requests; try again later",
}
_LATER = "an error of the server; try again later"


def status_of(error: BaseException) -> int | None:
    """HTTP status of an error of any client, or of an error that it was raised from; None without an answer.

    >>> status_of(ValueError("x")) is None
    True
    """
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        response: object = getattr(found, "response", None)
        for holder, name in ((found, "status"), (response, "status_code"), (found, "code")):
            status: object = getattr(holder, name, None)
            if isinstance(status, int) and 400 <= status < 600:
                return status
        found = found.__cause__ or found.__context__
    return None


def answer(status: int) -> str:
    """A status in words.

    >>> answer(404)
    'the server says 404 Not Found: check the address'
    """
    known = {each.value: each.phrase for each in HTTPStatus}
    what = _CHECK.get(status, _LATER if status >= 500 else "check the address")
    return f"the server says {' '.join(filter(None, (str(status), known.get(status))))}: {what}"
