"""How many cores this process may use."""


def available_cores() -> int:
    """Return the cores this process may run on, or fewer if its container is limited to less time of them; at least 1.

    A batch system and `docker --cpuset-cpus` restrict the cores, `docker --cpus` and Kubernetes the time.
    """
    import joblib

    return joblib.cpu_count()
