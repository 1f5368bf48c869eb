/*-------------------------------------------------------------------------
 *
 * vqpg.c
 *	  Loading of the library.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "am/ivfpq.h"
#include "base/vq_guc.h"
#include "vq_functions.h"

#ifdef PG_MODULE_MAGIC_EXT
PG_MODULE_MAGIC_EXT(.name = "vqpg",.version = "0.1");
#else
PG_MODULE_MAGIC;
#endif

/* The server declares it from version 16 on */
extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	vq_guc_init(IVFPQ_MAX_LISTS);
	ivfpq_init_reloptions();
	ivfpq_init_first();
	ivfpq_init_order();
	ivfpq_init_paths();
	ivfpq_init_executor();
	ivfpq_init_explain();
	ivfpq_init_recall();
}
