/*-------------------------------------------------------------------------
 *
 * ivfpq_copies.c
 *	  Which rows of a search are taken for copies of those compared.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "am/ivfpq_search.h"

bool
ivfpq_copies_note(IvfpqCopies *copies, float key, uint64 fingerprint, double distance)
{
	bool		is_another = key != copies->key || fingerprint != copies->fingerprint;
	bool		is_doubtful = is_another && key == copies->key && copies->ncompared >= IVFPQ_COPIES_COMPARED;

	if (is_another)
		copies->ncompared = 0;
	if (fingerprint != 0)
		copies->ncompared++;
	copies->key = key;
	copies->fingerprint = fingerprint;
	copies->distance = distance;
	copies->nassumed = 0;
	return is_doubtful;
}
