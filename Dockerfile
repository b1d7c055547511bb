# The page on a processor. docs/install.md says how to build and run it; compose.yaml puts a proxy in front.
FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-deps --wheel-dir dist .

FROM python:3.12-slim
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/same-seed
COPY locks/run.txt locks/torch.txt locks/
RUN pip install --require-hashes --no-deps --only-binary :all: -r locks/run.txt
# Where torch's builds for the processor alone are, as PyTorch's installation page says; without it, x86-64 gets gigabytes of CUDA.
ARG TORCH_INDEX_URL
RUN pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -r locks/torch.txt
COPY --from=build /source/dist dist
RUN pip install --no-deps dist/same_seed-*.whl

# Nothing is written but models of the Hub (/cache) and what may be lost (/tmp).
RUN useradd --uid 10001 --no-create-home same-seed && install --directory --owner same-seed --group same-seed /cache
USER 10001
ENV HOME=/tmp HF_HOME=/cache PYTHONUNBUFFERED=1 GRADIO_SERVER_NAME=0.0.0.0 GRADIO_SERVER_PORT=7860
VOLUME /cache
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=30m \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['GRADIO_SERVER_PORT'] + '/ready', timeout=5)"]
ENTRYPOINT ["same-seed"]
