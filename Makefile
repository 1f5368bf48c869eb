#-------------------------------------------------------------------------
#
# Makefile for vqpg
#
# A PGXS makefile: "make && make install" builds against the server whose
# pg_config is first in PATH (or PG_CONFIG=...).  Building in another folder
# works too: make -f /path/to/vqpg/Makefile.  "make help" lists the targets.
#
#-------------------------------------------------------------------------

# Folder of this file with a slash at its end, "" when it is the current one
here := $(patsubst ./,,$(dir $(firstword $(MAKEFILE_LIST))))
# The same as a name
top := $(patsubst %/,%,$(if $(here),$(here),./))

files_in = $(patsubst $(here)%,%,$(sort $(wildcard $(addprefix $(here),$(1)))))

kernel_sources := $(call files_in,src/kernels/*.c)
server_sources := $(call files_in,src/*.c src/am/*.c src/base/*.c)
header_files := $(call files_in,src/*/*.h)

EXTENSION = vqpg
MODULE_big = vqpg
DATA = $(call files_in,sql/vqpg--*.sql)
OBJS = $(patsubst %.c,%.o,$(server_sources) $(kernel_sources))
PG_CPPFLAGS = -I$(top)/src
EXTRA_CLEAN = .build .regress

# pg_regress wants sql/ beside expected/; ours is called sql_tests/, as sql/ is
# the extension's own.  Results are written to .regress/ as well.
REGRESS = $(basename $(notdir $(call files_in,sql_tests/*.sql)))
REGRESS_OPTS = --inputdir=.regress --outputdir=.regress --load-extension=vqpg
REGRESS_PREP = .regress

# PGXS does not make folders for objects in a VPATH build
ifneq ($(here),)
$(shell mkdir -p $(sort $(dir $(OBJS))))
endif

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# -Bsymbolic: the server loads libraries into one global namespace, and what we
# call by a name of ours must be ours.
ifeq ($(PORTNAME), linux)
SHLIB_LINK += -Wl,-Bsymbolic -ldl
endif
SHLIB_LINK += -lm

# PGXS tracks no header dependencies, neither for objects nor for bitcode
$(OBJS) $(OBJS:.o=.bc): $(header_files)

.regress: Makefile
	rm -rf $@
	mkdir -p $@
	ln -s $(abspath $(top))/sql_tests $@/sql
	ln -s $(abspath $(top))/expected $@/expected

#-------------------------------------------------------------------------
# Kernels on their own, without a server: .build/KIND/ has the objects of one
# kind of build.
#-------------------------------------------------------------------------

KERNEL_CFLAGS = -std=c11 -g -Wall -Wextra -Werror -I$(top)/src
SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=all
FUZZ_CC = clang
FUZZ_SECONDS = 60

unit_sources := $(call files_in,test/unit/*.c)
fuzz_names := $(patsubst test/fuzz/fuzz_%.c,%,$(call files_in,test/fuzz/fuzz_*.c))
bench_names := $(patsubst bench/bench_%.c,%,$(call files_in,bench/bench_*.c))

kernel_objects = $(patsubst %.c,.build/$(1)/%.o,$(kernel_sources))

.build/unit/%.o: %.c $(header_files) $(call files_in,test/unit/*.h)
	@mkdir -p $(@D)
	$(CC) $(KERNEL_CFLAGS) -O1 $(SANITIZE) -c -o $@ $<

.build/fuzz/%.o: %.c $(header_files)
	@mkdir -p $(@D)
	$(FUZZ_CC) $(KERNEL_CFLAGS) -O1 -fsanitize=fuzzer-no-link $(SANITIZE) -c -o $@ $<

.build/bench/%.o: %.c $(header_files)
	@mkdir -p $(@D)
	$(CC) $(KERNEL_CFLAGS) -O2 -c -o $@ $<

.build/unit/run: $(unit_sources:%.c=.build/unit/%.o) $(call kernel_objects,unit)
	$(CC) $(SANITIZE) -o $@ $^ -lm

.build/fuzz/fuzz_%: .build/fuzz/test/fuzz/fuzz_%.o $(call kernel_objects,fuzz)
	$(FUZZ_CC) -fsanitize=fuzzer $(SANITIZE) -o $@ $^ -lm

.build/bench/bench_%: .build/bench/bench/bench_%.o $(call kernel_objects,bench)
	$(CC) -o $@ $^ -lm

.PRECIOUS: .build/unit/%.o .build/fuzz/%.o .build/bench/%.o

unit: .build/unit/run
	.build/unit/run

# What a run finds is added to a copy of the corpus, not to the sources
fuzz: $(addprefix fuzz-,$(fuzz_names))
fuzz-%: .build/fuzz/fuzz_%
	@mkdir -p .build/fuzz/corpus/$*
	$< -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -artifact_prefix=.build/fuzz/ \
		.build/fuzz/corpus/$* $(wildcard $(top)/test/fuzz/corpus/$*)

bench: $(addprefix bench-,$(bench_names))
bench-%: .build/bench/bench_%
	$<

# Recall lost by the bound on real sets: folders with base.fvecs and query.fvecs
bounds: .build/bench/bench_vq_estimator
	@status=0; for set in $(DATA)/*/; do \
		echo "$$(basename "$$set"):"; \
		$< "$$set/base.fvecs" "$$set/query.fvecs" --max-queries 300 --check || status=1; \
	done; exit $$status

#-------------------------------------------------------------------------
# Tests that start servers of their own, or use the one of PGHOST and PGPORT
#-------------------------------------------------------------------------

specs = $(basename $(notdir $(call files_in,test/specs/*.spec)))

isolation:
	@mkdir -p .build/isolation
	$(pg_isolation_regress_installcheck) --inputdir=$(top)/test \
		--outputdir=.build/isolation --load-extension=vqpg $(specs)

# TESTDIR is what PostgreSQL 15 wants, the other two what later versions do
TAP = $(addprefix $(here),$(call files_in,test/t/*.pl))

tap:
	@rm -rf .build/tap/tmp_check
	@mkdir -p .build/tap
	TESTDIR='$(CURDIR)/.build/tap' TESTDATADIR='$(CURDIR)/.build/tap/data' \
	TESTLOGDIR='$(CURDIR)/.build/tap/log' PATH="$(bindir):$$PATH" \
	PGPORT='6$(DEF_PGPORT)' PG_REGRESS='$(top_builddir)/src/test/regress/pg_regress' \
	prove $(PG_PROVE_FLAGS) -I $(top)/test/t $(PROVE_FLAGS) $(TAP)

#-------------------------------------------------------------------------
# Order in the house
#-------------------------------------------------------------------------

layer-check:
	PG_CONFIG='$(PG_CONFIG)' $(top)/test/check_layers.sh arrows

header-check:
	PG_CONFIG='$(PG_CONFIG)' $(top)/test/check_layers.sh headers

# The options of PostgreSQL's own pgindent
INDENT = pg_bsd_indent -bad -bap -bbb -bc -bl -cli1 -cp33 -cdb -nce -d0 -di12 -nfc1 -i4 -l79 \
	-lp -lpl -nip -npro -sac -tpg -ts4 -U$(top)/typedefs.list
formatted_files = $(addprefix $(here),$(call files_in,src/*.c src/*/*.[ch] test/*/*.[ch] bench/*.[ch]))

format:
	for file in $(formatted_files); do $(INDENT) "$$file" && rm -f "$$(basename "$$file").BAK" || exit 1; done

format-check:
	@mkdir -p .build
	@bad=0; for file in $(formatted_files); do \
		cp "$$file" .build/format.c && (cd .build && $(subst -U$(top),-U$(abspath $(top)),$(INDENT)) format.c) && \
		diff -u --label "$$file" --label "$$file, formatted" "$$file" .build/format.c || bad=1; \
	done; rm -f .build/format.c*; exit $$bad

# Every type name that the sources mention, which is what the formatter has to
# know: of the server, by the debug information of the library, and their own
typedefs: all
	@mkdir -p .build
	(readelf --debug-dump=info $(shlib) | \
		awk '/DW_TAG_/ {wanted = /DW_TAG_typedef/} wanted && /DW_AT_name/ {print $$NF}'; \
		sed -n 's/^}[ 	]*\([A-Za-z_0-9]*\);$$/\1/p' $(formatted_files)) | \
		LC_ALL=C sort -u >.build/typedefs
	grep -ohE '[A-Za-z_][A-Za-z_0-9]*' $(formatted_files) | LC_ALL=C sort -u >.build/words
	LC_ALL=C comm -12 .build/typedefs .build/words >$(top)/typedefs.list

help:
	@echo 'all            build vqpg.so'
	@echo 'install        install it into the server of PG_CONFIG'
	@echo 'clean          remove what was built'
	@echo ''
	@echo 'installcheck   SQL tests against a running server with vqpg installed'
	@echo 'isolation      tests of concurrent sessions, the same way'
	@echo 'tap            tests that start servers (crash, replication, recall); not as root'
	@echo 'unit           unit tests of src/kernels under address and UB sanitizer'
	@echo 'fuzz           fuzz src/kernels, FUZZ_SECONDS=$(FUZZ_SECONDS) for each target'
	@echo 'bench          time every kernel'
	@echo 'bounds         recall lost by the bound on the sets below DATA=folder'
	@echo ''
	@echo 'layer-check    includes point downwards only'
	@echo 'header-check   every header compiles on its own'
	@echo 'format         indent all sources; format-check shows what that would change'
	@echo 'typedefs       renew typedefs.list, which the formatter needs'
	@echo ''
	@echo './test.sh      all of these tests, with servers of their own'

.PHONY: unit fuzz bench bounds isolation tap layer-check header-check format format-check typedefs help
