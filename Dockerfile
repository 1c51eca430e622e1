# The command line in a small image, without root.
FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m venv /opt/runstream && /opt/runstream/bin/pip install --no-cache-dir '.[metrics]'

FROM python:3.13-slim
RUN useradd --create-home --uid 1000 runstream && mkdir /archive && chown runstream: /archive
COPY --from=build /opt/runstream /opt/runstream
ENV PATH=/opt/runstream/bin:$PATH PYTHONUNBUFFERED=1
USER runstream
WORKDIR /home/runstream
VOLUME /archive
ENTRYPOINT ["runstream"]
CMD ["--help"]
