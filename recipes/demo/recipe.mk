# The main job on the embedded synthetic corpus: nothing to download, minutes on two cores.
# Smaller still: make demo HOURS=0.05 STEPS=20

HOURS =#   of synthetic audio; empty: the corpus's own default
STEPS =#   updates; empty: what demo.toml says
demo_out = $(if $(filter command,$(origin OUT)),$(OUT),runs/demo)

# 24 voices: with the default's 48 a voice has too few utterances for 25 shots.
.PHONY: demo
demo: $(READY) ## make a corpus, pretrain on it, probe and report: runs/demo/report.html
	@$(MAKE) --no-print-directory probe CORPUS=espeak PRESET=tiny RECIPE=recipes/demo/demo.toml TASKS="label speaker" \
	  PREPARED=$(demo_out)/corpus OUT=$(demo_out)/pretrain REPORT=$(demo_out)/report.html \
	  CORPUS_SET="voices=24 $(if $(HOURS),hours=$(HOURS)) $(CORPUS_SET)" SET="$(if $(STEPS),loop.steps=$(STEPS)) $(SET)"
	@echo "Look at $(demo_out)/report.html; the model is speechssl.load(\"$(demo_out)/pretrain\")." >&2
