# Recordings with labels -> prepared folder -> what a model gives on them beside the baselines, on one page.
#
#   make judge ROOT=~/recordings
#   make judge CORPUS=emodb MODEL=runs/mine
#   make judge PREPARED=runs/mine/corpus SHOTS=5,10 OUT=runs/judge/mine
#
# CORPUS is folder where only ROOT is given. ROOT, CORPUS_SET, LIMIT, PREPARED, OUT, MODEL, SHOTS, SEEDS and TEST_LIMIT
# are those of the other recipes, MODEL and OUT with other defaults. A killed run resumes at the next make.

judge_model = $(patsubst ~/%,$(HOME)/%,$(call given,MODEL,bundled))
judge_words = $(PREPARED) --model $(judge_model) --shots $(SHOTS) --seeds $(SEEDS) --test-limit $(TEST_LIMIT)
# The weights that make the results stale, the bundled ones under their name.
judge_bundle = $(or $(SPEECHSSL_BUNDLED),speechssl/assets/bundled)
judge_weights = $(wildcard $(if $(filter bundled,$(judge_model)),$(judge_bundle)/bundle.json,$(judge_model)/model.safetensors))

ifeq ($(few),judge)
  ifneq ($(words $(PREPARED)),1)
    $(error judge takes one prepared corpus, PREPARED is '$(PREPARED)')
  endif
  ifeq ($(judge_weights)$(filter bundled,$(judge_model)),)
    $(error judge needs MODEL=a model folder, or bundled; there is no model in '$(judge_model)')
  endif
endif

.PHONY: judge
judge: $(if $(filter judge,$(few)),$(OUT)/results.json) ## what MODEL gives on the labelled recordings under ROOT

ifeq ($(few),judge)
$(OUT)/.judge: FORCE
	@$(call remember,$(judge_words))

# The command writes report.html, too.
$(OUT)/results.json: $(PREPARED)/waveforms.json $(judge_weights) $(OUT)/.judge | $(READY)
	$(SPEECHSSL) judge $(judge_words) --out $(OUT)
	@touch $@
endif
