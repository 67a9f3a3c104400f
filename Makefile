# Thin names for scripts that need bash and nothing else; README.md names the scripts.
.PHONY: demo demo-down test soak lint image bench bootstrap lock

demo:
	@e2e/demo.sh

demo-down:
	@e2e/demo-down.sh

test:
	@tests/run.sh

soak: # the long forms; an hour
	@tests/soak.sh

lint:
	@tests/lint.sh

image:
	@e2e/image.sh

bench: # DOCS=1 copies table and plot into docs/; ARGS="--quick --only packets"
	@e2e/bench.sh $(if $(DOCS),--docs) $(ARGS)

bootstrap:
	@e2e/bootstrap.sh

lock: # after a change of dependencies in pyproject.toml
	@e2e/bootstrap.sh --without-binaries
	@.venv/bin/pip-compile -q --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --generate-hashes \
		--strip-extras --allow-unsafe --extra dev -o requirements.lock pyproject.toml
