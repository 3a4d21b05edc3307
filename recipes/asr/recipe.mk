# Corpus -> prepared folder -> recognisers from a few labelled minutes, with and without an n-gram -> report.
#
#   make asr CORPUS=speechocean762 LABELS=10min ENCODER=runs/mine
#   make asr CORPUS=folder ROOT=~/recordings LABELS=1h ENCODER=runs/mine OUT=runs/asr/mine
#
# CORPUS, ROOT, CORPUS_SET, LIMIT, PREPARED, OUT and SET are those of recipes/pretrain/recipe.mk, ENCODER is that of
# recipes/emotion/recipe.mk. A killed run goes on at the next make.

LABELS = 10min#               10min, 1h, 5min …, or the path of a list
DEV =#                        list for the decoder; empty: the corpus's own in data/lists, else a tenth is drawn
TEST =#                       list of the test side; empty: the corpus's own, else its split test, else a fifth is drawn
TEXT =#                       text for the n-gram, a sentence a line; empty: the transcripts of the training side
LM = auto#                    what that is mixed with: english, wordfreq, transcripts (nothing), or auto: by language
ORDER = 3#                    words of the n-gram, 2 to 5
BEAM = 100#                   hypotheses of the beam search
SAME_SPEAKER = no#            yes: train and test on one speaker, with other sentences
ROUNDS = 1#                   of self-training
KEEP = 0.7#                   share of the pseudo-labels that is kept
SCRATCH = yes#                no: without the model that is not pretrained
RIVALS = all#                 recognisers of another kind: all, no, or hmm-mfcc,hmm-encoder,pocketsphinx

# A corpus has one list a purpose (data/lists); some carry the name of a speaker: cmu_arctic-slt-10min.
asr_list = $(firstword $(wildcard data/lists/$(few_corpus)-$(1).txt data/lists/$(few_corpus)-*-$(1).txt))
asr_path = $(patsubst ~/%,$(HOME)/%,$(LABELS))
asr_labels = $(or $(if $(findstring /,$(LABELS))$(filter %.txt,$(LABELS)),$(asr_path)),$(call asr_list,$(LABELS)))
asr_minutes := $(shell [[ '$(LABELS)' =~ ^([0-9]+(\.[0-9]+)?)(min|h)$$ ]] && \
  awk -v n="$${BASH_REMATCH[1]}" -v unit="$${BASH_REMATCH[3]}" 'BEGIN { print n * (unit == "h" ? 60 : 1) }')
asr_dev = $(or $(DEV),$(call asr_list,dev))
# SPEAKER-test beside the labels SPEAKER-10min has their speaker: it is for SAME_SPEAKER=yes alone.
asr_same := $(filter yes,$(SAME_SPEAKER))
asr_own_test = $(wildcard $(patsubst %-$(LABELS).txt,%-test.txt,$(call asr_list,$(LABELS))))
asr_tests = $(wildcard data/lists/$(few_corpus)-test.txt) $(filter-out $(asr_own_test),$(sort $(wildcard data/lists/$(few_corpus)-*-test.txt)))
asr_test = $(or $(TEST),$(if $(asr_same),$(asr_own_test),$(firstword $(asr_tests))))
asr_words = $(PREPARED) --encoder $(encoder) $(if $(asr_labels),--labels $(asr_labels),--minutes $(asr_minutes)) \
  $(addprefix --dev ,$(asr_dev)) $(addprefix --test ,$(asr_test)) $(if $(asr_same),--same-speaker) \
  $(if $(TEXT),--lm-text $(call quoted,$(patsubst ~/%,$(HOME)/%,$(TEXT)))) $(if $(filter-out auto,$(LM)),--lm $(LM)) --order $(ORDER) --beam $(BEAM) \
  --rounds $(ROUNDS) --keep $(KEEP) $(if $(filter no,$(SCRATCH)),--no-scratch) \
  $(if $(filter-out all,$(RIVALS)),--rivals $(if $(filter no,$(RIVALS)),none,$(RIVALS))) $(call sets,$(SET))

ifeq ($(few),asr)
  ifneq ($(words $(PREPARED)),1)
    $(error asr takes one prepared corpus, PREPARED is '$(PREPARED)')
  endif
  ifeq ($(wildcard $(encoder)/model.safetensors),)
    $(error asr needs ENCODER=a model folder; there is none in '$(ENCODER)')
  endif
  ifneq ($(words $(filter yes no,$(SCRATCH)) $(filter yes no,$(SAME_SPEAKER))),2)
    $(error SCRATCH is '$(SCRATCH)', SAME_SPEAKER is '$(SAME_SPEAKER)'; allowed: yes or no)
  endif
  ifeq ($(asr_labels)$(asr_minutes),)
    $(error LABELS is '$(LABELS)'; allowed: minutes or hours such as 10min or 1h, or the path of a list)
  endif
  ifneq ($(wildcard $(asr_labels) $(DEV) $(TEST)),$(strip $(asr_labels) $(DEV) $(TEST)))
    $(error there is no such list among LABELS, DEV and TEST: '$(strip $(asr_labels) $(DEV) $(TEST))')
  endif
endif

.PHONY: asr
asr: $(if $(filter asr,$(few)),$(OUT)/report.html) ## recognisers of CORPUS from LABELS: ENCODER and from scratch

ifeq ($(few),asr)
$(OUT)/.asr: FORCE
	@$(call remember,$(asr_words))

$(OUT)/results.json: $(PREPARED)/waveforms.json $(encoder)/model.safetensors $(asr_labels) $(asr_dev) $(asr_test) $(OUT)/.asr | $(READY)
	$(SPEECHSSL) asr $(asr_words) --out $(OUT)
	@touch $@

$(OUT)/report.html: $(OUT)/results.json | $(READY)
	$(SPEECHSSL) report $(OUT) --out $@
endif
