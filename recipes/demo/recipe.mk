# The main job on the embedded synthetic corpus: nothing to download, minutes on two cores.
# Smaller still: make demo HOURS=0.05 STEPS=20

HOURS = 1.5#   of synthetic audio
STEPS =#   updates; empty: what demo.toml says
demo_out = $(if $(filter command,$(origin OUT)),$(OUT),runs/demo)

# Few labels at the end. Schedules are short, for the demo has a budget; with less than half an hour of audio it is a
# glance, and everything is as small as it can be.
demo_small = $(shell awk -v hours="$(HOURS)" 'BEGIN { if (hours < 0.5) print "yes" }')
demo_labels = $(shell awk -v hours="$(HOURS)" 'BEGIN { print (hours < 0.7 ? hours * 15 : 10) "min" }')
EMOTION_SHOTS = $(if $(demo_small),2 all,5 25)# labelled utterances per style
EMOTION_SET = loop.steps=$(if $(demo_small),3,40)# settings of its trainings
ASR_SET = loop.steps=$(if $(demo_small),3,700)# settings of speech recognition
demo_emotion = PREPARED=$(demo_out)/corpus ENCODER=$(demo_out)/pretrain OUT=$(demo_out)/emotion \
  SHOTS="$(EMOTION_SHOTS)" DRAWS=$(if $(demo_small),1,3) TEST_LIMIT=$(if $(demo_small),20,200) SET="$(EMOTION_SET)" \
  CONTENDERS=fine-tuned,frozen-probe,random-encoder,mfcc-svm,logmel-cnn
# Minutes of pretraining are too few for a recogniser: it starts from the model that comes with the package, if there is one.
demo_start = $(or $(patsubst %/bundle.json,%,$(demo_bundle)),$(demo_out)/pretrain)
demo_asr = PREPARED=$(demo_out)/corpus ENCODER=$(demo_start) OUT=$(demo_out)/asr LABELS=$(demo_labels) \
  ROUNDS=$(if $(demo_small),1,0) SCRATCH=no RIVALS=no BEAM=20 LM=transcripts SET="$(ASR_SET)"

# It begins with the model that comes with the package, where there is one: vectors and probes before anything is trained.
# BEGIN is set by the call below alone.
demo_bundle = $(wildcard $(or $(SPEECHSSL_BUNDLED),speechssl/assets/bundled)/bundle.json)
demo_begin = $(demo_out)/bundled/results.json BEGIN=$(demo_out)/bundled
ifneq ($(BEGIN),)
# Vectors of other weights are not added to.
$(BEGIN)/vectors.parquet: $(PREPARED)/waveforms.json $(demo_bundle) | $(READY)
	@mkdir -p $(@D) && rm -rf $@ $@.parts
	$(SPEECHSSL) extract $(PREPARED)/manifest.jsonl --out $@
	@touch $@

$(BEGIN)/results.json: $(BEGIN)/vectors.parquet
	$(SPEECHSSL) evaluate bundled $(probe_words) --out $@
endif

# 24 voices, or 6 where there is little audio: with the default's 48 a voice has too few utterances for the shots.
# A dry run (make -n) runs the lines with $(MAKE), too; there is no encoder then to start from.
demo_shots = $(if $(filter command,$(origin SHOTS)),$(SHOTS),$(if $(demo_small),2,$(SHOTS)))
demo_corpus = CORPUS=espeak PREPARED=$(demo_out)/corpus OUT=$(demo_out)/pretrain TASKS="label speaker" SHOTS=$(demo_shots) \
  CORPUS_SET="voices=$(if $(demo_small),6,24) hours=$(HOURS) $(CORPUS_SET)"

.PHONY: demo
demo: $(READY) ## make a corpus, pretrain, probe, few-label emotion and ASR: runs/demo/report.html
	@[ -z "$(demo_bundle)" ] || $(MAKE) --no-print-directory $(demo_begin) $(demo_corpus)
	@$(MAKE) --no-print-directory probe PRESET=tiny RECIPE=recipes/demo/demo.toml REPORT=$(demo_out)/report.html \
	  $(demo_corpus) SET="$(if $(STEPS),loop.steps=$(STEPS)) $(SET)"
	@[ ! -e $(demo_out)/pretrain/model.safetensors ] || $(MAKE) --no-print-directory emotion CORPUS= $(demo_emotion)
	@[ ! -e $(demo_out)/pretrain/model.safetensors ] || $(MAKE) --no-print-directory asr CORPUS= $(demo_asr)
	@echo "Look at $(demo_out)/report.html; the model is speechssl.load(\"$(demo_out)/pretrain\")." >&2
	@echo "Few labels: $(demo_out)/emotion/report.html and $(demo_out)/asr/report.html (synthetic voices, not speech)." >&2
