# Rendered by atoll. Wheels come from the context: no network, no compiler, no package index.
ARG BASE=atoll-base:bookworm

FROM ${BASE} AS packages
ENV PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1
COPY wheels /wheels
COPY requirements.txt /wheels/requirements.txt
# A package may hold files of another Python, which do not compile; ours and the service's must.
RUN python3 "$(echo /wheels/pip-*.whl)/pip" install --quiet --no-index --find-links /wheels --require-hashes --no-deps \
      --no-compile --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
      --target /opt/packages -r /wheels/requirements.txt \
 && { python3 -m compileall -q --invalidation-mode unchecked-hash /opt/packages >/dev/null || true; }
COPY atoll /opt/atoll
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/atoll
COPY app /opt/app
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/app
COPY program.txt /wheels/program.txt
RUN python3 "$(echo /wheels/pip-*.whl)/pip" install --quiet --no-index --find-links /wheels --require-hashes --no-deps \
      --no-compile --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
      --target /opt/program -r /wheels/program.txt
RUN mkdir -p /opt/program/bin
WORKDIR /opt/app
RUN PATH=/opt/program/bin:$PATH command -v uvicorn >/dev/null \
 || { echo 'the command of wall begins with what its image does not have:' uvicorn >&2; exit 1; }

FROM ${BASE}
RUN echo 'atoll:x:10001:10001::/tmp:/bin/false' >> /etc/passwd && echo 'atoll:x:10001:' >> /etc/group \
 && install -d -m 700 -o 10001 -g 10001 /data
COPY --from=packages /opt/packages /opt/packages
COPY --from=packages /opt/atoll /opt/atoll
COPY --from=packages /opt/app /opt/app
COPY --from=packages /opt/program /opt/program
COPY sbom.json /opt/sbom.json
ENV PATH="/usr/local/bin:/usr/bin:/bin" \
    PYTHONPATH="/opt/packages:/opt/atoll" \
    PYTHONSAFEPATH="1" \
    PYTHONUNBUFFERED="1" \
    PYTHONDONTWRITEBYTECODE="1" \
    HOME="/tmp" \
    ATOLL_SERVICE="wall" \
    ATOLL_FOLDER="/opt/app" \
    ATOLL_LISTEN="0.0.0.0:8000" \
    ATOLL_STATE_DIR="/data" \
    ATOLL_CONTRACT_DIGEST="a914b8adf07be80d" \
    ATOLL_COMMAND="[\"uvicorn\", \"wall:application\", \"--host\", \"0.0.0.0\", \"--port\", \"8000\", \"--lifespan\", \"off\"]" \
    ATOLL_COMMAND_PACKAGES="/opt/program"
LABEL org.opencontainers.image.title="wall" org.opencontainers.image.version="3.1.0" \
      org.opencontainers.image.vendor="harbour" org.opencontainers.image.base.name="atoll-base:bookworm" \
      io.atoll.sbom="/opt/sbom.json"
USER 10001:10001
WORKDIR /opt/app
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python3", "-m", "atoll", "wait", "tcp://127.0.0.1:8000", "--timeout", "0"]
CMD ["python3", "-m", "atoll", "run", "wall"]
