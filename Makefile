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
server_sources := $(call files_in,src/*.c src/am/*.c src/base/*.c src/gpu/*.c)
header_files := $(call files_in,src/*/*.h)

EXTENSION = vqpg vqpg_vector
MODULE_big = vqpg
DATA = $(call files_in,sql/*--*.sql)
OBJS = $(patsubst %.c,%.o,$(server_sources) $(kernel_sources))
PG_CPPFLAGS = -I$(top)/src
EXTRA_CLEAN = .build .regress vqpg_cuda.so

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

# Every row that is compared is checked for NaN and infinity
src/base/vq_datum.o: CFLAGS += $(CFLAGS_VECTORIZE)

# Attributes are compared eight at a time
src/kernels/vq_attribute.o: CFLAGS += $(CFLAGS_VECTORIZE)

# PGXS tracks no header dependencies, neither for objects nor for bitcode
$(OBJS) $(OBJS:.o=.bc): $(header_files)

#-------------------------------------------------------------------------
# The GPU plug-in: a library of its own, as vqpg.so links no CUDA.  It is built
# where nvcc is found, installed where it has been built, WITH_CUDA=no leaves it out, and
# WITH_CUDA=yes insists.
#-------------------------------------------------------------------------

WITH_CUDA = auto
NVCC ?= $(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc))
CUDA_LIBS = $(abspath $(dir $(shell readlink -f '$(NVCC)'))/../lib64)

# Compute capabilities to compile for, of those that nvcc knows, and portable code
# for devices that are newer: of the newest, and of 10.0 for those between it and 12.0
CUDA_ARCHS = 75 80 86 89 90 100 120
CUDA_THREADS = 2
cuda_archs = $(filter $(patsubst compute_%,%,$(shell $(NVCC) --list-gpu-arch)),$(CUDA_ARCHS))
cuda_portable = $(sort $(filter 100,$(cuda_archs)) $(lastword $(cuda_archs)))
cuda_targets = $(foreach arch,$(cuda_archs),-gencode arch=compute_$(arch),code=sm_$(arch)) \
	$(foreach arch,$(cuda_portable),-gencode arch=compute_$(arch),code=compute_$(arch))
NVCCFLAGS = -std=c++17 -O3 -I$(top)/src -Xcompiler -fPIC,-Wall,-Wextra,-fvisibility=hidden \
	--threads $(CUDA_THREADS)

# Not all headers: these files take a minute to compile
plugin_headers := $(call files_in,src/gpu/*.h src/gpu/*.cuh src/kernels/*.h)

cuda_objects := $(patsubst %.cu,.build/cuda/%.o,$(call files_in,src/gpu/*.cu)) \
	.build/cuda/src/kernels/vq_pq.o .build/cuda/src/kernels/vq_rng.o

.build/cuda/%.o: %.cu $(plugin_headers)
	@mkdir -p $(@D)
	$(NVCC) $(NVCCFLAGS) $(cuda_targets) -c -o $@ $<

.build/cuda/%.o: %.c $(plugin_headers)
	@mkdir -p $(@D)
	$(CC) -std=c11 -O2 -g -Wall -Wextra -fPIC -fvisibility=hidden -I$(top)/src -c -o $@ $<

vqpg_cuda.so: $(cuda_objects)
	$(NVCC) -shared -cudart static -o $@ $^ -L$(CUDA_LIBS) -lcublas -lm -ldl \
		-Xlinker --exclude-libs,ALL -Xlinker -Bsymbolic -Xlinker -rpath,$(CUDA_LIBS)

install-cuda: vqpg_cuda.so
	$(MKDIR_P) '$(DESTDIR)$(pkglibdir)'
	$(INSTALL_SHLIB) vqpg_cuda.so '$(DESTDIR)$(pkglibdir)/'

uninstall-cuda:
	rm -f '$(DESTDIR)$(pkglibdir)/vqpg_cuda.so'

ifeq ($(WITH_CUDA),auto)
with_cuda := $(if $(NVCC)$(wildcard vqpg_cuda.so),yes,no)
else
with_cuda := $(WITH_CUDA)
endif
ifeq ($(with_cuda),yes)
all: vqpg_cuda.so
install: install-cuda
endif
uninstall: uninstall-cuda

.regress: Makefile
	rm -rf $@
	mkdir -p $@
	ln -s $(abspath $(top))/sql_tests $@/sql
	ln -s $(abspath $(top))/expected $@/expected

#-------------------------------------------------------------------------
# Kernels on their own, without a server: .build/KIND/ has the objects of one
# kind of build.
#-------------------------------------------------------------------------

# test.sh makes errors of warnings, of which another compiler than ours has others
KERNEL_WARNINGS = -Wall -Wextra
KERNEL_CFLAGS = -std=c11 -g $(KERNEL_WARNINGS) -I$(top)/src
SANITIZE = -fsanitize=address,undefined -fno-sanitize-recover=all
FUZZ_CC = clang
FUZZ_SECONDS = 60

# A compiler for 64-bit Arm, and what runs its programs on another processor
ARM_CC = aarch64-linux-gnu-gcc
ARM_RUN = $(or $(shell command -v qemu-aarch64-static),qemu-aarch64) -L /usr/aarch64-linux-gnu

unit_sources := $(call files_in,test/unit/*.c)
fuzz_names := $(patsubst test/fuzz/fuzz_%.c,%,$(call files_in,test/fuzz/fuzz_*.c))

kernel_objects = $(patsubst %.c,.build/$(1)/%.o,$(kernel_sources))

.build/unit/%.o: %.c $(header_files) $(call files_in,test/unit/*.h)
	@mkdir -p $(@D)
	$(CC) $(KERNEL_CFLAGS) -O1 $(SANITIZE) -c -o $@ $<

.build/arm/%.o: %.c $(header_files) $(call files_in,test/unit/*.h)
	@mkdir -p $(@D)
	$(ARM_CC) $(KERNEL_CFLAGS) -O1 $(SANITIZE) -c -o $@ $<

# src/kernels as any processor can run it: what tables of x86 processors ask of these is
# computed in C.  What the library does with integers overflows as theirs do.  Rules name their
# files, as more general ones would make these objects of those of the extension
in_c_sources := $(addprefix .build/x86/,$(call files_in,src/kernels/*.[ch]))
in_c_kernels := $(patsubst %.c,%.o,$(filter %.c,$(in_c_sources)))
in_c_objects := $(in_c_kernels) \
	$(patsubst %.c,.build/x86/%.o,$(filter-out test/unit/test_vq_gpu.c,$(unit_sources)))

.build/x86/src/kernels/vq_cpu.c: test/unit/x86_in_c/vq_cpu_all.c
	@mkdir -p $(@D)
	cp $< $@

$(filter-out %/vq_cpu.c,$(in_c_sources)): .build/x86/%: % test/unit/x86_in_c/translate.sed
	@mkdir -p $(@D)
	sed -f $(top)/test/unit/x86_in_c/translate.sed $< >$@

$(in_c_kernels): %.o: %.c $(in_c_sources) $(call files_in,test/unit/x86_in_c/*.h)
	$(CC) -I$(top)/test/unit/x86_in_c -I.build/x86/src $(KERNEL_CFLAGS) -Wno-psabi -O1 -fsanitize=address -c -o $@ $<

.build/x86/%.o: %.c $(header_files) $(call files_in,test/unit/*.h)
	@mkdir -p $(@D)
	$(CC) $(KERNEL_CFLAGS) -DWITHOUT_GPU -DWITH_ALL_TABLES -O1 $(SANITIZE) -c -o $@ $<

.build/fuzz/%.o: %.c $(header_files)
	@mkdir -p $(@D)
	$(FUZZ_CC) $(KERNEL_CFLAGS) -O1 -fsanitize=fuzzer-no-link $(SANITIZE) -c -o $@ $<

.build/bench/%.o: %.c $(header_files)
	@mkdir -p $(@D)
	$(CC) $(KERNEL_CFLAGS) -O2 -c -o $@ $<

unit_objects = $(patsubst %.c,.build/$(1)/%.o,$(unit_sources) $(kernel_sources) $(call files_in,src/gpu/*.c))

.build/unit/run: $(call unit_objects,unit)
	$(CC) $(SANITIZE) -o $@ $^ -lm -ldl

.build/arm/run: $(call unit_objects,arm)
	$(ARM_CC) $(SANITIZE) -o $@ $^ -lm -ldl

.build/x86/run: $(in_c_objects)
	$(CC) $(SANITIZE) -o $@ $^ -lm -ldl

.build/fuzz/fuzz_%: .build/fuzz/test/fuzz/fuzz_%.o $(call kernel_objects,fuzz)
	$(FUZZ_CC) -fsanitize=fuzzer $(SANITIZE) -o $@ $^ -lm

.build/bench/bench_%: .build/bench/bench/bench_%.o $(call kernel_objects,bench)
	$(CC) -o $@ $^ -lm -ldl

.PRECIOUS: .build/x86/%.o .build/unit/%.o .build/arm/%.o .build/fuzz/%.o .build/bench/%.o

# What stands in for the GPU plug-in, under its name
double_sources := test/gpu/vq_gpu_double.c $(kernel_sources)

.build/unit/gpu/vqpg_cuda.so: $(double_sources) $(header_files)
	@mkdir -p $(@D)
	$(CC) $(KERNEL_CFLAGS) -O1 $(SANITIZE) -fPIC -fvisibility=hidden -shared -o $@ $(filter %.c,$^) -lm

.build/arm/gpu/vqpg_cuda.so: $(double_sources) $(header_files)
	@mkdir -p $(@D)
	$(ARM_CC) $(KERNEL_CFLAGS) -O1 $(SANITIZE) -fPIC -fvisibility=hidden -shared -o $@ $(filter %.c,$^) -lm

.build/gpu/double/vqpg_cuda.so: $(double_sources) $(header_files)
	@mkdir -p $(@D)
	$(CC) $(KERNEL_CFLAGS) -O2 -fPIC -fvisibility=hidden -shared -o $@ $(filter %.c,$^) -lm

gpu-double: .build/gpu/double/vqpg_cuda.so

# The plug-in itself, its kernels run by an emulator on the CPU
emulated_objects := $(patsubst %.cu,.build/gpu/emulated/%.o,$(call files_in,src/gpu/*.cu)) \
	.build/gpu/emulated/emulator.o .build/cuda/src/kernels/vq_pq.o .build/cuda/src/kernels/vq_rng.o
EMULATED_CXXFLAGS = -std=c++17 -g -O2 -Wall -Wno-unknown-pragmas -fPIC -fvisibility=hidden -DVQ_GPU_PIECE_BYTES=4096u \
	-I$(top)/test/gpu/emulator -I$(top)/src

.build/gpu/emulated/%.o: %.cu $(plugin_headers) $(call files_in,test/gpu/emulator/*.* test/gpu/emulator/cub/device/*)
	@mkdir -p $(@D)
	perl $(top)/test/gpu/emulator/translate.pl $< >$(@:.o=.cc)
	$(CXX) $(EMULATED_CXXFLAGS) -c -o $@ $(@:.o=.cc)

.build/gpu/emulated/emulator.o: test/gpu/emulator/emulator.cc $(call files_in,test/gpu/emulator/*.h)
	@mkdir -p $(@D)
	$(CXX) $(EMULATED_CXXFLAGS) -U_FORTIFY_SOURCE -c -o $@ $<

.build/gpu/emulated/vqpg_cuda.so: $(emulated_objects)
	$(CXX) -shared -o $@ $^ -lm -ldl

gpu-emulated: .build/gpu/emulated/vqpg_cuda.so

# Where the address sanitizer looks for uses of the stack after return, as it does
# by default from gcc 13 on, gcc 13.2 places variables of 64 bytes misaligned
UNIT_JOBS := $(shell nproc)

unit: .build/unit/run .build/unit/gpu/vqpg_cuda.so
	ASAN_OPTIONS=detect_stack_use_after_return=0 VQPG_GPU_FOLDER=.build/unit/gpu .build/unit/run --jobs $(UNIT_JOBS)

# The same on an emulated processor; leaks are found by ptrace, which that has not
unit-arm: .build/arm/run .build/arm/gpu/vqpg_cuda.so
	ASAN_OPTIONS=detect_stack_use_after_return=0:detect_leaks=0 VQPG_GPU_FOLDER=.build/arm/gpu \
		$(ARM_RUN) .build/arm/run --jobs $(UNIT_JOBS)

unit-x86: .build/x86/run
	ASAN_OPTIONS=detect_stack_use_after_return=0 .build/x86/run --jobs $(UNIT_JOBS)

# What a run finds is added to a copy of the corpus, not to the sources
fuzz: $(addprefix fuzz-,$(fuzz_names))
fuzz-%: .build/fuzz/fuzz_%
	@mkdir -p .build/fuzz/corpus/$*
	$< -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -artifact_prefix=.build/fuzz/ \
		.build/fuzz/corpus/$* $(wildcard $(top)/test/fuzz/corpus/$*)

# The estimator wants data: see bounds
bench: bench-vq_kernels bench-vq_bandwidth bench-vq_panels
bench-%: .build/bench/bench_%
	$<

# Recall lost by the bound on real sets: folders with base.fvecs and query.fvecs
bounds: .build/bench/bench_vq_estimator
	@status=0; for set in $(DATA)/*/; do \
		echo "$$(basename "$$set"):"; \
		$< "$$set/base.fvecs" "$$set/query.fvecs" --max-queries 1000 --check || status=1; \
	done; exit $$status

#-------------------------------------------------------------------------
# Tests of the GPU plug-in on a machine with a GPU; neither a server nor its
# headers are needed.  GPU_LIBRARY=.build/gpu/double/vqpg_cuda.so runs the
# programs themselves on a machine without.
#-------------------------------------------------------------------------

GPU_LIBRARY = vqpg_cuda.so
GPU_RESULTS = .build/gpu/results
GPU_CHECK_ARGS =
GPU_BENCH_ARGS =
GPU_BENCH_CSV = $(GPU_RESULTS)/gpu.csv
gpu_objects := $(patsubst %.c,.build/gpu/%.o,$(kernel_sources) $(call files_in,src/gpu/*.c) \
	test/gpu/gpu_data.c test/gpu/gpu_model.c)

.build/gpu/%.o: %.c $(plugin_headers) $(call files_in,test/gpu/*.h)
	@mkdir -p $(@D)
	$(CC) $(KERNEL_CFLAGS) -O2 -c -o $@ $<

.build/gpu/gpu_%: .build/gpu/test/gpu/gpu_%.o $(gpu_objects)
	$(CC) -o $@ $^ -lm -ldl

# The one that measures the device's ceilings needs CUDA itself
gpu_ceilings = $(if $(filter vqpg_cuda.so,$(GPU_LIBRARY)),.build/gpu/gpu_ceilings)

.build/gpu/gpu_ceilings: test/gpu/gpu_ceilings.cu
	@mkdir -p $(@D)
	$(NVCC) -std=c++17 -O2 $(cuda_targets) -o $@ $< -L$(CUDA_LIBS) -lcublas -Xlinker -rpath,$(CUDA_LIBS)

# Processes that share the work: most of it is that of the CPU, which computes the same.
# What each has found is in a file as soon as it has.
GPU_CHECK_PARTS = $(if $(filter vqpg_cuda.so,$(GPU_LIBRARY)),13,1)

gpu-check: .build/gpu/gpu_check $(GPU_LIBRARY)
	@mkdir -p $(GPU_RESULTS); rm -f $(GPU_RESULTS)/check.*.out; \
	for part in $$(seq $(GPU_CHECK_PARTS)); do \
		{ $< $(abspath $(GPU_LIBRARY)) $(GPU_CHECK_ARGS) --part $$((part - 1))/$(GPU_CHECK_PARTS) 2>&1 || \
			echo "part $$part ended with status $$?"; } | tee $(GPU_RESULTS)/check.$$part.out & \
	done; \
	wait; \
	awk '/^[0-9]+ passed, [0-9]+ failed$$/ {passed += $$1; failed += $$3; parts++} \
		/^part [0-9]+ ended with status/ {bad++} \
		END {printf "%d of %d parts came to their end: %d passed, %d failed\n", \
			parts, $(GPU_CHECK_PARTS), passed, failed; exit parts != $(GPU_CHECK_PARTS) || failed || bad}' \
		$(GPU_RESULTS)/check.*.out

# Each tool has so many seconds, and begins with what takes the least.  They do not everywhere know the device
GPU_SANITIZERS = memcheck synccheck initcheck racecheck
GPU_SANITIZER_SECONDS = 60

gpu-sanitize: .build/gpu/gpu_check vqpg_cuda.so
	@for tool in $(GPU_SANITIZERS); do \
		echo "compute-sanitizer --tool $$tool"; \
		timeout -k 2 $(GPU_SANITIZER_SECONDS) compute-sanitizer --tool $$tool --error-exitcode 1 \
			$< $(abspath vqpg_cuda.so) --sanitized; \
		case $$? in 0) ;; 124 | 137) echo "not finished" ;; *) failed=yes ;; esac; \
	done; [ -z "$$failed" ]

gpu-bench: .build/gpu/gpu_bench $(GPU_LIBRARY) $(gpu_ceilings)
	@mkdir -p $(dir $(GPU_BENCH_CSV)); rm -f .build/gpu/ceilings.csv
	$(if $(gpu_ceilings),-$(gpu_ceilings) >.build/gpu/ceilings.csv)
	$< $(abspath $(GPU_LIBRARY)) --ceilings .build/gpu/ceilings.csv --csv $(GPU_BENCH_CSV) $(GPU_BENCH_ARGS)

gpu-train: .build/gpu/gpu_train $(GPU_LIBRARY)

# A model by the plug-in and one by the stand-in, of the same rows, and what they
# find.  Options of both programs; GPU_DATA is a folder with base.fvecs and query.fvecs.
GPU_DATA =
GPU_TRAIN_ARGS = --lists 2000
GPU_RECALL_ARGS = --queries 2000
gpu_base = $(if $(GPU_DATA),$(GPU_DATA)/base.fvecs,100000x128)
gpu_queries = $(if $(GPU_DATA),$(GPU_DATA)/query.fvecs,2000x128:2)

gpu-recall: .build/gpu/gpu_train .build/gpu/gpu_recall $(GPU_LIBRARY) gpu-double
	.build/gpu/gpu_train $(abspath $(GPU_LIBRARY)) $(gpu_base) .build/gpu/device.model $(GPU_TRAIN_ARGS)
	.build/gpu/gpu_train .build/gpu/double/vqpg_cuda.so $(gpu_base) .build/gpu/cpu.model $(GPU_TRAIN_ARGS)
	.build/gpu/gpu_recall $(gpu_base) $(gpu_queries) .build/gpu/double/vqpg_cuda.so .build/gpu/cpu.model \
		$(abspath $(GPU_LIBRARY)) .build/gpu/device.model $(GPU_RECALL_ARGS)

# All of that on a machine that is there for GPU_SECONDS: everything is compiled side by side,
# then measured and tested one after the other, what matters most first.  What comes out is
# in GPU_RESULTS as soon as it comes; the tools of gpu-sanitize share what is left of the time.
GPU_SECONDS = 570
GPU_STAGES = gpu-programs gpu-bench gpu-check gpu-recall gpu-sanitize

gpu-programs: $(GPU_LIBRARY) $(gpu_ceilings) gpu-double gpu-train \
	.build/gpu/gpu_bench .build/gpu/gpu_check .build/gpu/gpu_recall

gpu-all:
	@mkdir -p $(GPU_RESULTS); rm -f $(GPU_RESULTS)/*.out; begin=$$(date +%s); failed=; \
	for stage in $(GPU_STAGES); do \
		start=$$(date +%s); left=$$(($(GPU_SECONDS) - start + begin)); jobs=1; \
		case $$stage in \
			gpu-programs) jobs=$$(nproc) ;; \
			gpu-sanitize) each=$$((left / $(words $(GPU_SANITIZERS)) - 4)) ;; \
		esac; \
		if [ $$left -lt 20 ]; then \
			echo "$$stage: no time left"; failed="$$failed $$stage"; continue; \
		fi; \
		{ timeout $$left $(MAKE) --no-print-directory -f $(firstword $(MAKEFILE_LIST)) -k -j$$jobs $$stage \
			$${each:+GPU_SANITIZER_SECONDS=$$each}; echo $$? >$(GPU_RESULTS)/status; } 2>&1 | \
			tee $(GPU_RESULTS)/$$stage.out; \
		status=$$(cat $(GPU_RESULTS)/status); \
		[ $$status -eq 0 ] || failed="$$failed $$stage"; \
		last=$$(grep -v '^make' $(GPU_RESULTS)/$$stage.out | tail -n 1 | cut -c 1-200); \
		echo "$$stage: $$(($$(date +%s) - start)) s, status $$status: $$last" | tee -a $(GPU_RESULTS)/summary.out; \
	done; \
	cat $(GPU_RESULTS)/summary.out; echo "all: $$(($$(date +%s) - begin)) s$${failed:+, failed:$$failed}"; \
	[ -z "$$failed" ]

.PRECIOUS: .build/gpu/%.o .build/cuda/%.o

#-------------------------------------------------------------------------
# Tests that start servers of their own, or use the one of PGHOST and PGPORT
#-------------------------------------------------------------------------

specs = $(basename $(notdir $(call files_in,test/specs/*.spec)))

isolation:
	@mkdir -p .build/isolation
	$(pg_isolation_regress_installcheck) --inputdir=$(top)/test \
		--outputdir=.build/isolation --load-extension=vqpg $(specs)

# With pgvector's types
vector-check:
	@mkdir -p .build/vector
	$(pg_regress_installcheck) --inputdir=$(top)/test/vector --outputdir=.build/vector \
		--load-extension=vector --load-extension=vqpg --load-extension=vqpg_vector \
		$(basename $(notdir $(call files_in,test/vector/sql/*.sql)))

# TESTDIR is what PostgreSQL 15 wants, the other two what later versions do
TAP = $(addprefix $(here),$(call files_in,test/t/*.pl))

tap: gpu-double
	@rm -rf .build/tap/tmp_check
	@mkdir -p .build/tap
	TESTDIR='$(CURDIR)/.build/tap' TESTDATADIR='$(CURDIR)/.build/tap/data' \
	TESTLOGDIR='$(CURDIR)/.build/tap/log' PATH="$(bindir):$$PATH" \
	VQPG_GPU_STAND_IN='$(CURDIR)/.build/gpu/double/vqpg_cuda.so' \
	PGPORT='6$(DEF_PGPORT)' PG_REGRESS='$(top_builddir)/src/test/regress/pg_regress' \
	prove $(PG_PROVE_FLAGS) -I $(top)/test/t $(PROVE_FLAGS) $(TAP)

#-------------------------------------------------------------------------
# Order in the house
#-------------------------------------------------------------------------

layer-check:
	PG_CONFIG='$(PG_CONFIG)' $(top)/test/check_layers.sh arrows

header-check:
	PG_CONFIG='$(PG_CONFIG)' $(top)/test/check_layers.sh headers

help:
	@echo 'all            build vqpg.so'
	@echo 'install        install it into the server of PG_CONFIG'
	@echo 'clean          remove what was built'
	@echo ''
	@echo 'installcheck   SQL tests against a running server with vqpg installed'
	@echo 'isolation      tests of concurrent sessions, the same way'
	@echo 'vector-check   SQL tests with pgvector, which is to be installed as well'
	@echo 'tap            tests that start servers (crash, replication, recall); not as root'
	@echo 'unit           unit tests of src/kernels and of the GPU loader under address and UB sanitizer'
	@echo 'unit-arm       the same for 64-bit Arm, cross-compiled and emulated: ARM_CC, ARM_RUN'
	@echo 'unit-x86       the same of the tables of all x86 processors, their instructions computed in C by SIMDe'
	@echo 'fuzz           fuzz src/kernels, FUZZ_SECONDS=$(FUZZ_SECONDS) for each target'
	@echo 'bench          time every kernel'
	@echo 'bounds         recall lost by the bound on the sets below DATA=folder'
	@echo ''
	@echo 'vqpg_cuda.so   the GPU plug-in; part of all and install if nvcc is there (WITH_CUDA=yes, no)'
	@echo 'gpu-double     a stand-in for it that needs no GPU, .build/gpu/double/vqpg_cuda.so'
	@echo 'gpu-emulated   the plug-in with its kernels on the CPU, .build/gpu/emulated/vqpg_cuda.so'
	@echo 'gpu-check      compare the plug-in with src/kernels; needs a GPU, but no server'
	@echo 'gpu-sanitize   the same, in part, under the tools of compute-sanitizer'
	@echo 'gpu-bench      time its stages against what the device can do'
	@echo 'gpu-recall     train with it and on the CPU, and compare what both find'
	@echo 'gpu-train      a program that trains a model with it'
	@echo 'gpu-all        all of that within GPU_SECONDS=$(GPU_SECONDS), results in GPU_RESULTS=$(GPU_RESULTS)'
	@echo ''
	@echo 'layer-check    includes point downwards only'
	@echo 'header-check   every header compiles on its own'
	@echo ''
	@echo './test.sh      all of these tests, with servers of their own'

.PHONY: install-cuda uninstall-cuda gpu-double gpu-emulated gpu-check gpu-sanitize gpu-bench gpu-recall gpu-train gpu-programs gpu-all unit unit-arm unit-x86 fuzz bench bounds isolation vector-check tap layer-check header-check help
