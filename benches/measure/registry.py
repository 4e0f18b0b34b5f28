"""Debian's docker-registry, the rival of the registry."""


def docker_registry(place, port):
    """How to start one on loopback that keeps everything, its configuration too, in a directory."""
    config = place / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {place / 'data'}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n", encoding="utf-8")
    return ["docker-registry", "serve", config]
