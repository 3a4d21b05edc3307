# Corpus -> prepared folder -> pretrained model -> probes -> report.
#
#   make pretrain probe CORPUS=folder ROOT=~/recordings PRESET=small
#   make pretrain CORPUS=festvox_ru
#   make pretrain probe PREPARED="runs/a runs/b" PROBE_ON=runs/c OUT=runs/mine SET="loop.steps=2000 seed=1"
#
# A killed stage goes on at the next make: packing and pretraining resume, and a stamp is written only by a finished one.

CORPUS = $(if $(ROOT),$(if $(filter judge,$(few)),folder))# a corpus by name (speechssl info lists them)
ROOT =#                       where it lies; CORPUS=folder needs it
PRESET = tiny#                tiny (minutes on two cores), small, base or large
OUT = $(or $(few_out),runs/$(CORPUS)-$(PRESET))# the run; a model folder that speechssl.load takes
OBJECTIVE =#                  pretraining method; empty: wav2vec2, or what RECIPE says
RECIPE =#                     a TOML file with what differs from the preset
BUDGET =#                     wall time of pretraining, 20min or 3h; empty: the preset's number of steps
SET =#                        settings of pretraining, "a.b=c d.e=f"
CORPUS_SET =#                 settings of the corpus, "hours=0.5"
LIMIT =#                      stop after so many utterances
PREPARED = $(OUT)/corpus#     prepared folders; name one to share it between runs
PROBE_ON = $(firstword $(PREPARED))# the prepared folder to probe on
TASKS = label#                what to predict: label, speaker, text
SHOTS = 5,10,25#              labelled utterances per class
SEEDS = 5#                    draws of the shots
REPORT = $(OUT)/report.html
MODEL = $(OUT)#               for extract
VECTORS = $(MODEL)/vectors.parquet

# Recipes with few labels, and the comparison of objectives, share OUT, PREPARED and `prepare` with this one, and have a run folder of their own.
few := $(firstword $(filter emotion asr judge compare-objectives,$(MAKECMDGOALS)))
given = $(if $(filter command,$(origin $(1))),$($(1)),$(2))
few_corpus = $(or $(if $(filter judge,$(few)),$(notdir $(patsubst %/,%,$(filter-out ~,$(root))))),$(CORPUS),$(notdir $(patsubst %/,%,$(firstword $(call given,PREPARED)))))
few_labels = $(if $(filter asr,$(few)),-$(patsubst $(few_corpus)-%,%,$(patsubst %.txt,%,$(notdir $(call given,LABELS,10min)))))
few_folds = $(if $(and $(FOLDS),$(filter emotion,$(few))),-$(patsubst %-$(few_corpus),%,$(notdir $(patsubst %/,%,$(FOLDS)))))
few_same = $(if $(filter asr,$(few)),$(if $(filter yes,$(SAME_SPEAKER)),-same-speaker))
few_out = $(if $(few),runs/$(few)/$(few_corpus)$(few_labels)$(few_folds)$(few_same))

# Not every shell expands the ~ in ROOT=~/recordings.
root = $(patsubst ~/%,$(HOME)/%,$(ROOT))
quoted = '$(subst ','\'',$(1))'
sets = $(foreach pair,$(1),--set $(call quoted,$(pair)))
recipe_base := $(if $(RECIPE),$(addprefix $(dir $(RECIPE)),$(shell sed -n 's/^base *= *"\(.*\)".*/\1/p' $(RECIPE) 2>/dev/null)))

# What a stage was run with. The file changes only when the words do, and then the stage is stale.
prepare_words = $(CORPUS) $(if $(ROOT),--root $(call quoted,$(root))) $(call sets,$(CORPUS_SET)) $(if $(LIMIT),--limit $(LIMIT))
pretrain_words = $(PREPARED) --preset $(PRESET) $(addprefix --objective ,$(OBJECTIVE)) $(addprefix --config ,$(RECIPE)) $(if $(BUDGET),--budget $(call quoted,$(BUDGET))) $(call sets,$(SET))
probe_words = $(PROBE_ON) $(addprefix --task ,$(TASKS)) --shots $(SHOTS) --seeds $(SEEDS)
remember = mkdir -p $(@D) && printf '%s\n' $(call quoted,$(1)) | cmp -s - $@ || printf '%s\n' $(call quoted,$(1)) > $@

# What only the user can say.
ifneq ($(words $(OUT)),1)
  $(error OUT is '$(OUT)'; make takes no spaces there)
endif
ifneq ($(and $(few),$(filter-out $(few) prepare,$(MAKECMDGOALS))),)
  $(error make $(few) by itself: it has a run folder of its own)
endif
ifneq ($(filter prepare pretrain probe $(few),$(MAKECMDGOALS)),)
  ifeq ($(CORPUS)$(filter-out $(OUT)/corpus,$(PREPARED)),)
    $(error give CORPUS=name, or PREPARED=folder of a prepared corpus)
  endif
  ifeq ($(CORPUS)$(ROOT),folder)
    $(error CORPUS=folder needs ROOT=the folder of your recordings)
  endif
  ifeq ($(filter $(PRESET),tiny small base large),)
    $(error PRESET is '$(PRESET)'; allowed: tiny, small, base, large)
  endif
  ifneq ($(RECIPE),$(wildcard $(RECIPE)))
    $(error there is no RECIPE '$(RECIPE)')
  endif
endif
ifneq ($(filter extract,$(MAKECMDGOALS)),)
  ifeq ($(ROOT),)
    $(error extract needs ROOT=the folder of your recordings, or a manifest)
  endif
  ifeq ($(wildcard $(MODEL)/model.safetensors),)
    $(error extract needs MODEL=a model folder; there is none in '$(MODEL)')
  endif
endif

.PHONY: prepare pretrain probe extract FORCE
prepare: $(addsuffix /waveforms.json,$(PREPARED)) ## decode CORPUS (ROOT, CORPUS_SET, LIMIT) once into PREPARED

pretrain: $(OUT)/.pretrained ## pretrain PRESET on CORPUS into OUT (SET="a.b=c", ROOT for CORPUS=folder)

probe: $(REPORT) ## probe OUT with few labels (TASKS, SHOTS, SEEDS, PROBE_ON) and write its report

extract: $(READY) ## turn the audio under ROOT into vectors with MODEL, as one Parquet file VECTORS
	$(SPEECHSSL) extract $(MODEL) $(call quoted,$(root)) --out $(VECTORS)

ifneq ($(CORPUS),)
$(firstword $(PREPARED))/.settings: FORCE
	@$(call remember,$(prepare_words))

$(firstword $(PREPARED))/waveforms.json: $(firstword $(PREPARED))/.settings | $(READY)
	$(SPEECHSSL) prepare $(prepare_words) --out $(@D)
	@touch $@
endif

ifeq ($(few),)
$(OUT)/.settings: FORCE
	@$(call remember,$(pretrain_words))

$(OUT)/.pretrained: $(addsuffix /waveforms.json,$(PREPARED)) $(RECIPE) $(recipe_base) $(OUT)/.settings | $(READY)
	$(SPEECHSSL) pretrain $(pretrain_words) --out $(OUT)
	@touch $@

$(OUT)/.probing: FORCE
	@$(call remember,$(probe_words))

$(OUT)/results.json: $(OUT)/.pretrained $(PROBE_ON)/waveforms.json $(OUT)/.probing | $(READY)
	$(SPEECHSSL) evaluate $(OUT) $(probe_words) --out $@

$(REPORT): $(OUT)/results.json | $(READY)
	$(SPEECHSSL) report $(OUT) --out $@
endif
