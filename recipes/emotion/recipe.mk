# Corpus -> prepared folder -> label-efficiency curves of an encoder beside five other ways to use the labels -> report.
#
#   make emotion CORPUS=emodb ENCODER=runs/mine
#   make emotion PREPARED=runs/mine/corpus SHOTS="5 10 all" ENCODER=runs/mine OUT=runs/emotion/mine
#
# CORPUS, ROOT, CORPUS_SET, LIMIT, PREPARED, OUT and SET are those of recipes/pretrain/recipe.mk; so is SHOTS, with
# another default. A killed run goes on at the next make behind the last of its cells.

ENCODER =#                    a model folder, as `make pretrain` leaves it
DRAWS = 5#                    draws of the shots; five folds are one repetition, ten draws are two
CONTENDERS =#                 which of the contenders, by commas; empty: the six
STANDARDISE = shots#          speaker: each speaker's mean and deviation taken out with unlabelled audio (transductive)
TEST_LIMIT = 1000#            about so many test utterances in a draw, at most
FOLDS =#                      a folder of fold lists (data/lists/emobox-ravdess) instead of SHOTS, DRAWS and TEST_LIMIT

encoder = $(patsubst ~/%,$(HOME)/%,$(ENCODER))
comma := ,
blank := $(subst ,, )
emotion_shots = $(subst $(blank),$(comma),$(strip $(call given,SHOTS,5 10 25 50 100 all)))
emotion_sides = $(if $(FOLDS),--fold-lists $(FOLDS),--shots $(emotion_shots) --draws $(DRAWS) --test-limit $(TEST_LIMIT))
emotion_words = $(PREPARED) --encoder $(encoder) $(emotion_sides) \
  $(if $(CONTENDERS),--contenders $(CONTENDERS)) $(if $(filter-out shots,$(STANDARDISE)),--standardise $(STANDARDISE)) \
  $(call sets,$(SET))

ifeq ($(few),emotion)
  ifneq ($(words $(PREPARED)),1)
    $(error emotion takes one prepared corpus, PREPARED is '$(PREPARED)')
  endif
  ifeq ($(wildcard $(encoder)/model.safetensors),)
    $(error emotion needs ENCODER=a model folder; there is none in '$(ENCODER)')
  endif
endif

.PHONY: emotion
emotion: $(if $(filter emotion,$(few)),$(OUT)/report.html) ## curves over SHOTS: ENCODER and five baselines on CORPUS

ifeq ($(few),emotion)
$(OUT)/.emotion: FORCE
	@$(call remember,$(emotion_words))

$(OUT)/results.json: $(PREPARED)/waveforms.json $(encoder)/model.safetensors $(OUT)/.emotion | $(READY)
	$(SPEECHSSL) emotion $(emotion_words) --out $(OUT)
	@touch $@

$(OUT)/report.html: $(OUT)/results.json | $(READY)
	$(SPEECHSSL) report $(OUT) --out $@
endif
