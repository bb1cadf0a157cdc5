# Respan as an image: one for web, shipper, worker, beat and `manage.py`; compose.yaml says which runs what.
# It runs as an account without rights, on a read-only root: only the data directory and /tmp are written.

FROM python:3.11-slim-bookworm AS packages
COPY requirements.txt /requirements.txt
# Exactly what is locked, by hash, wheels only: nothing is compiled, nothing else is fetched.
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary=:all: --no-deps \
      --requirement /requirements.txt \
 && /opt/venv/bin/pip uninstall --yes pip setuptools

FROM python:3.11-slim-bookworm
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 DJANGO_SETTINGS_MODULE=respan.settings \
    HOST=0.0.0.0 PORT=8000 RESPAN_DATA_DIR=/var/lib/respan-data RESPAN_ENV_FILE=/dev/null
RUN groupadd --gid 10001 respan && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin respan \
 && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/respan-data
COPY --from=packages /opt/venv /opt/venv
COPY manage.py LICENSE THIRD_PARTY_NOTICES.md /srv/respan/
COPY respan /srv/respan/respan
COPY accounts /srv/respan/accounts
COPY billing /srv/respan/billing
COPY traces /srv/respan/traces
COPY gateway /srv/respan/gateway
COPY templates /srv/respan/templates
COPY docs /srv/respan/docs
RUN python -m compileall -q /opt/venv/lib /srv/respan
WORKDIR /srv/respan
USER 10001:10001
VOLUME /var/lib/respan-data
EXPOSE 8000
STOPSIGNAL SIGTERM
CMD ["python", "-m", "respan.web"]
