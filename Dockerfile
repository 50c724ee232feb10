# syntax=docker/dockerfile:1
# Two stages: the first has pip and compilers, the second only what runs.
FROM python:3.11-slim-bookworm AS build
# Which build of torch: the CPU one by default; for CUDA, build with --build-arg TORCH_INDEX=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/mobo-mpq
ENV PATH=/opt/mobo-mpq/bin:$PATH
WORKDIR /src
COPY constraints.txt .
# torch changes rarely and is large: a layer of its own
RUN pip install -c constraints.txt --index-url "$TORCH_INDEX" torch
COPY pyproject.toml README.md LICENSE ./
COPY mobo_mpq mobo_mpq
COPY objectives objectives
COPY workflows workflows
RUN pip install -c constraints.txt .

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 10001 mobo
COPY --from=build /opt/mobo-mpq /opt/mobo-mpq
ENV PATH=/opt/mobo-mpq/bin:$PATH \
    MOBO_MPQ_HOME=/data \
    OMP_NUM_THREADS=1 \
    PYTHONUNBUFFERED=1
RUN mkdir /data && chown mobo:mobo /data
USER mobo
WORKDIR /home/mobo
VOLUME /data
# MLflow's pages, for `mobo-mpq ui --host 0.0.0.0`
EXPOSE 5000
ENTRYPOINT ["mobo-mpq"]
CMD ["search"]
