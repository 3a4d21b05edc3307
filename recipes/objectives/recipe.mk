# Prepared corpora -> runs of every objective under one budget -> probes -> tables and page.
#
#   make compare-objectives PREPARED="runs/a runs/b" PROBE_ON="runs/c runs/d:speaker" VERIFY_ON=runs/d MINUTES=40
#   make compare-objectives PREPARED=runs/a PROBE_ON=runs/c BUDGET_BY=audio AUDIO_HOURS=10 OBJECTIVES=hubert,apc
#
# One JSON file per run in RESULTS; a run that has one is not made again. PREPARED and SET are those of
# recipes/pretrain/recipe.mk; so are PROBE_ON, SEEDS, PRESET and OUT, with other defaults.

OBJECTIVES =#                 which ones, by commas; empty: all
BUDGET_BY = time#             what is equal for all: time (of the processor) or audio
MINUTES = 40#                 core-minutes of a run
AUDIO_HOURS = 10#             hours of audio of a run, with BUDGET_BY=audio
VERIFY_ON =#                  prepared folders of speaker verification
RATES =#                      factors on each preset's learning rate to choose from, by commas; empty: the preset's own
SWEEP_ON =#                   the prepared folder that judges them, none of PROBE_ON
SWEEP_MINUTES = 1.5#          core-minutes of the short run of each rate

compare_out = $(call given,OUT,runs/objectives)
compare_results = $(call given,RESULTS,recipes/objectives/results)
compare_length = $(if $(filter audio,$(BUDGET_BY)),--budget-by audio --hours $(AUDIO_HOURS),--minutes $(MINUTES))
compare_words = $(PREPARED) $(addprefix --objectives ,$(OBJECTIVES)) --seeds $(call given,SEEDS,3) $(compare_length) \
  $(addprefix --probe-on ,$(call given,PROBE_ON)) $(addprefix --verify-on ,$(VERIFY_ON)) --preset $(PRESET) \
  $(if $(RATES),--rates $(RATES) --sweep-minutes $(SWEEP_MINUTES) $(addprefix --sweep-on ,$(SWEEP_ON))) $(call sets,$(SET))

ifneq ($(filter compare-objectives,$(MAKECMDGOALS)),)
  ifeq ($(call given,PREPARED),)
    $(error compare-objectives needs PREPARED=folders of prepared corpora to pretrain on)
  endif
  ifeq ($(call given,PROBE_ON),)
    $(error compare-objectives needs PROBE_ON=folders of prepared corpora to probe, such as runs/c or runs/c:speaker)
  endif
  ifneq ($(and $(RATES),$(if $(SWEEP_ON),,none)),)
    $(error RATES needs SWEEP_ON=a prepared corpus that judges them, none of PROBE_ON)
  endif
  ifeq ($(filter $(BUDGET_BY),time audio),)
    $(error BUDGET_BY is '$(BUDGET_BY)'; allowed: time, audio)
  endif
endif

# Always run: the command itself knows which results are missing.
.PHONY: compare-objectives
compare-objectives: $(READY) ## compare OBJECTIVES on PREPARED under one budget, by probes on PROBE_ON
	$(SPEECHSSL) compare-objectives $(compare_words) --out $(compare_out) --results $(compare_results)
