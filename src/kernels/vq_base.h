/*-------------------------------------------------------------------------
 *
 * vq_base.h
 *	  What every kernel file needs: fixed-width types, status codes and the
 *	  macros that open a region compiled for one instruction set.
 *
 * Nothing below src/kernels includes a PostgreSQL header, allocates, reports
 * an error or runs longer than one chunk of work.  The caller owns buffers,
 * loops and interrupts.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_BASE_H
#define VQ_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Limits that the on-disk format and the kernels share */
#define VQ_MAX_DIM			16000
#define VQ_BLOCK_LANES		32	/* vectors in a full block */
#define VQ_CAPACITY_STEP	8	/* block capacities are multiples of this */

typedef enum VqStatus
{
	VQ_OK = 0,
	VQ_BAD_ARGUMENT,			/* a size or option is outside its limits */
	VQ_BAD_FORMAT,				/* bytes are not what the format promises */
	VQ_NOT_FINITE,				/* NaN or infinity where a number is needed */
	VQ_ZERO_VECTOR				/* a direction was asked of a zero vector */
} VqStatus;

typedef enum VqMetric
{
	VQ_METRIC_L2 = 1,
	VQ_METRIC_IP = 2,			/* negative inner product */
	VQ_METRIC_COSINE = 3
} VqMetric;

/*
 * Code between VQ_TARGET_BEGIN("avx2,fma") and VQ_TARGET_END is compiled for
 * that instruction set whatever the command line says.  PGXS compiles every
 * file with gcc and again with clang, each with flags of its own, so per-file
 * -m flags would not reach both.
 */
#define VQ_PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#define VQ_TARGET_BEGIN(features) \
	VQ_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define VQ_TARGET_END	VQ_PRAGMA(clang attribute pop)
#else
#define VQ_TARGET_BEGIN(features) \
	VQ_PRAGMA(GCC push_options) VQ_PRAGMA(GCC target(features))
#define VQ_TARGET_END	VQ_PRAGMA(GCC pop_options)
#endif

/* Tiles are known to gcc from 11 and to clang from 12 on, and their use is asked for in Linux's way */
#if defined(__x86_64__) && defined(__linux__)
#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
#define VQ_HAVE_AMX
#endif
#endif

#endif							/* VQ_BASE_H */
