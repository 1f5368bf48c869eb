/*-------------------------------------------------------------------------
 *
 * vq_guc.c
 *	  Settings, and the kernels that one of them chooses.
 *
 * Anybody may set any of them, for a session, a role, a database or a
 * function.  What shapes an index is a storage parameter instead
 * (ivfpq_handler.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/guc.h"

#include "base/vq_guc.h"

/* Values of settings, at first what they are defined with below: from 16 on, a server with assertions wants them equal */
int			ivfpq_nprobe;
double		ivfpq_wanted_recall = VQ_DEFAULT_RECALL;
int			ivfpq_max_probes;
int			ivfpq_iterative_scan = VQ_ITERATIVE_RELAXED;
double		ivfpq_epsilon = 2.0;
int			ivfpq_gpu = VQ_USE_GPU_AUTO;
int			ivfpq_gpu_device = -1;
bool		ivfpq_autoreindex = true;

const VqKernels *vq_kernels;

#define MAX_GPU_DEVICE	1023

/* Value of ivfpq.kernel: an index into kernel_options */
static int	ivfpq_kernel;

static const struct config_enum_entry iterative_scan_options[] = {
	{"off", VQ_ITERATIVE_OFF, false},
	{"relaxed_order", VQ_ITERATIVE_RELAXED, false},
	{"strict_order", VQ_ITERATIVE_STRICT, false},
	{NULL, 0, false}
};

/* What stands for on and off elsewhere does so here, but is not shown */
static const struct config_enum_entry gpu_options[] = {
	{"auto", VQ_USE_GPU_AUTO, false},
	{"on", VQ_USE_GPU_ON, false},
	{"off", VQ_USE_GPU_OFF, false},
	{"true", VQ_USE_GPU_ON, true},
	{"false", VQ_USE_GPU_OFF, true},
	{"yes", VQ_USE_GPU_ON, true},
	{"no", VQ_USE_GPU_OFF, true},
	{"1", VQ_USE_GPU_ON, true},
	{"0", VQ_USE_GPU_OFF, true},
	{NULL, 0, false}
};

/*
 * The same names on every platform, so that one postgresql.conf serves all of
 * them; what this machine cannot run is refused by check_kernel.
 */
static const struct config_enum_entry kernel_options[] = {
	{"auto", 0, false},
	{"scalar", 1, false},
	{"avx2", 2, false},
	{"avx512", 3, false},
	{"avx512_vnni", 4, false},
	{"avx512_vbmi", 5, false},
	{"avx512_amx", 6, false},
	{"neon", 7, false},
	{"neon_dotprod", 8, false},
	{NULL, 0, false}
};

static bool
check_kernel(int *newval, void **extra, GucSource source)
{
	StringInfoData names;

	if (vq_kernels_by_name(kernel_options[*newval].name) != NULL)
		return true;

	initStringInfo(&names);
	for (int i = 0; vq_kernels_all[i] != NULL; i++)
	{
		if (vq_kernels_supported(vq_kernels_all[i]))
			appendStringInfo(&names, "%s\"%s\"", names.len > 0 ? ", " : "",
							 vq_kernels_all[i]->name);
	}
	GUC_check_errcode(ERRCODE_FEATURE_NOT_SUPPORTED);
	GUC_check_errmsg("this machine cannot run the \"%s\" kernels",
					 kernel_options[*newval].name);
	GUC_check_errdetail("It can run: %s.", names.data);
	GUC_check_errhint("Set \"ivfpq.kernel\" to \"auto\" to use the fastest of them.");
	pfree(names.data);
	return false;
}

static void
assign_kernel(int newval, void *extra)
{
	vq_kernels = vq_kernels_by_name(kernel_options[newval].name);
}

void
vq_guc_init(int max_lists)
{
	DefineCustomIntVariable("ivfpq.nprobe",
							"Number of lists that a search reads.",
							"More lists find more of the nearest rows and take longer. "
							"0 means as many as the index's storage parameter \"nprobe\" says, or as \"ivfpq.recall\" takes.",
							&ivfpq_nprobe,
							0, 0, max_lists,
							PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
	DefineCustomRealVariable("ivfpq.recall",
							 "Share of the nearest rows that a search aims at.",
							 "It reads as many lists as the build of the index has found to take, unless \"ivfpq.nprobe\" "
							 "or the storage parameter \"nprobe\" says how many.",
							 &ivfpq_wanted_recall,
							 VQ_DEFAULT_RECALL, VQ_LEAST_RECALL, VQ_MOST_RECALL,
							 PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
	DefineCustomIntVariable("ivfpq.max_probes",
							"Number of lists after which an iterative scan stops.",
							"0 means all lists of the index. A search never reads fewer than \"ivfpq.nprobe\".",
							&ivfpq_max_probes,
							0, 0, max_lists,
							PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
	DefineCustomEnumVariable("ivfpq.iterative_scan",
							 "Whether a scan reads further lists when more rows are wanted.",
							 "In \"relaxed_order\", rows of further lists may be nearer than rows "
							 "already returned; \"strict_order\" leaves such rows out.",
							 &ivfpq_iterative_scan,
							 VQ_ITERATIVE_RELAXED, iterative_scan_options,
							 PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
	DefineCustomRealVariable("ivfpq.epsilon",
							 "Standard errors by which a code's distance may be too large.",
							 "Rows whose distance could be that much smaller are compared exactly. "
							 "0 trusts the codes.",
							 &ivfpq_epsilon,
							 2.0, 0.0, 100.0,
							 PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
	DefineCustomEnumVariable("ivfpq.kernel",
							 "Instruction set of the distance computations.",
							 "\"auto\" is the best that the processor has.",
							 &ivfpq_kernel,
							 0, kernel_options,
							 PGC_USERSET, 0, check_kernel, assign_kernel, NULL);
	DefineCustomEnumVariable("ivfpq.gpu",
							 "Whether CREATE INDEX uses a GPU.",
							 "\"auto\" uses one if there is one and the table is large enough, and goes "
							 "on without it if it fails; \"on\" raises an error instead.",
							 &ivfpq_gpu,
							 VQ_USE_GPU_AUTO, gpu_options,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("ivfpq.gpu_device",
							"Number of the GPU that CREATE INDEX uses.",
							"Numbers are those of vqpg_gpus(). -1 means all of them together.",
							&ivfpq_gpu_device,
							-1, -1, MAX_GPU_DEVICE,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("ivfpq.autoreindex",
							 "Whether VACUUM has indexes rebuilt that have outgrown their build.",
							 "A background worker runs REINDEX INDEX CONCURRENTLY. The storage parameter "
							 "\"autoreindex\" says it for one index.",
							 &ivfpq_autoreindex,
							 true,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("ivfpq");
}
