"""The files of a packed split in object storage or on a web server, fetched by the rules of `sharding.objects`."""

from sharding.objects.transport import MissingError, RemoteError, RetryPolicy
from sharding.objects.transport import RemoteFolder as AnyRemoteFolder

__all__ = ["MissingError", "RemoteError", "RemoteFolder", "RetryPolicy"]


class RemoteFolder(AnyRemoteFolder):
    """The files under the URL of a packed split; see `sharding.objects.transport.RemoteFolder`."""

    missing_remedy = "check the URL, which must be that of a packed split, and that all its files were uploaded"
