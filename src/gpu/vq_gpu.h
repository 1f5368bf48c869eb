/*-------------------------------------------------------------------------
 *
 * vq_gpu.h
 *	  The interface of the GPU plug-in: a table of plain C functions, filled
 *	  by the one function that the plug-in exports.
 *
 * No CUDA type and no PostgreSQL type crosses it.  Of src/kernels, VqPq,
 * VqProjection, VqFactors, VqKmeansSums and VqMetric do: a change to one of
 * them is a change to this interface, and needs a new VQ_GPU_ABI_VERSION.
 *
 * All vectors are in model space (vq_codec.h), rows of floats in row-major
 * order.  Codes and codebooks are of code space, which is model space where a
 * projection is NULL; the plug-in projects, the caller never does.  A projection
 * fits if its dim is that of the vectors, its ndirections are no more, and codes
 * are for just as many dimensions, without padding: pq.dim = m * dsub =
 * ndirections.  Without one, pq.dim is the dimension of the vectors.
 *
 * Every function that can fail returns a status and, unless it is
 * VQ_GPU_OK, a sentence in error.  What the status is decides what is left:
 *
 *		VQ_GPU_BAD_ARGUMENT		nothing has happened, and nothing is lost
 *		any other				all memory on the devices has been given back;
 *								the handle can only be closed
 *
 * Nothing here prints, exits, or jumps out of a function.  A handle belongs to
 * one thread of one process and does not survive a fork.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_GPU_H
#define VQ_GPU_H

#include "kernels/vq_block.h"
#include "kernels/vq_kmeans.h"
#include "kernels/vq_pq.h"
#include "kernels/vq_project.h"

/* Raised when anything in this header, or a type it uses, changes its meaning */
#define VQ_GPU_ABI_VERSION	4

/* The file, beside vqpg.so, and what it exports */
#define VQ_GPU_LIBRARY		"vqpg_cuda.so"
#define VQ_GPU_ENTRY		"vq_gpu_interface"

#define VQ_GPU_ALL_DEVICES	(-1)
#define VQ_GPU_TEXT_BYTES	512

typedef enum VqGpuStatus
{
	VQ_GPU_OK = 0,
	VQ_GPU_BAD_ARGUMENT,		/* a size is outside its limits, or a call out
								 * of order */
	VQ_GPU_NO_LIBRARY,			/* no plug-in, or not one of this version
								 * (loader only) */
	VQ_GPU_NO_DEVICE,			/* no device, no driver, or not the device
								 * asked for */
	VQ_GPU_NO_MEMORY,			/* device or pinned memory does not suffice */
	VQ_GPU_STOPPED,				/* should_stop said so */
	VQ_GPU_FAILED				/* everything else, in the words of the driver */
} VqGpuStatus;

typedef struct VqGpuError
{
	char		message[VQ_GPU_TEXT_BYTES]; /* for errdetail: no newline, ends
											 * without a full stop */
} VqGpuError;

typedef struct VqGpuDevice
{
	int32_t		index;			/* what VqGpuOptions.device takes */
	char		name[128];		/* or "unavailable", and why, of one that does not
								 * answer; the rest is 0 then */
	uint32_t	capability_major;
	uint32_t	capability_minor;
	uint32_t	driver_version; /* 1000 * major + 10 * minor of the CUDA
								 * version it supports */
	uint32_t	multiprocessors;
	uint64_t	total_bytes;
	uint64_t	free_bytes;		/* when it was asked; 0 if the device refused
								 * to say */
} VqGpuDevice;

/* How products of matrices are computed; they choose candidates, distances are float32 always */
typedef enum VqGpuProducts
{
	VQ_GPU_PRODUCTS_AUTO = 0,	/* TF32, or float32 on devices without it */
	VQ_GPU_PRODUCTS_F32,
	VQ_GPU_PRODUCTS_TF32,
	VQ_GPU_PRODUCTS_BF16
} VqGpuProducts;

typedef struct VqGpuOptions
{
	int32_t		device;			/* one, or VQ_GPU_ALL_DEVICES */
	VqGpuProducts products;
	uint64_t	memory_limit;	/* bytes to take of each device, 0: what is
								 * free, less a reserve */
	uint64_t	product_bytes;	/* of tiles of products, 0: as the plug-in
								 * finds best */

	/*
	 * Asked at least every few ms while the host waits for a device.  Called
	 * in the thread that made the call; must return.  NULL: never stop.
	 */
	bool		(*should_stop) (void *arg);
	void	   *should_stop_arg;
} VqGpuOptions;

/* A model to encode with; arrays are copied, those of the projection too */
typedef struct VqGpuModel
{
	VqMetric	metric;
	size_t		dim;			/* of the vectors */
	VqPq		pq;				/* pq.dim is the dimension of code space */
	const VqProjection *projection; /* NULL: code space is model space */
	float		error_scale;	/* of E, finite and positive: see vq_codec.h */
	size_t		ncentroids;
	const float *centroids;		/* [ncentroids][dim] */
	const float *codebook;		/* [m][dsub][ksub] */
} VqGpuModel;

/*
 * A batch of rows on its way through a device.  All arrays are pinned memory
 * of the plug-in.  Results are valid from collect to release.
 */
typedef struct VqGpuBatch
{
	void	   *tag;			/* the caller's */
	size_t		capacity;		/* rows that fit */
	size_t		stride;			/* floats from one row to the next, dim or a
								 * few more */
	float	   *rows;			/* [capacity][stride]; the caller writes the
								 * first dim of each */
	size_t		nrows;			/* the caller sets it before submit */
	const uint32_t *labels;		/* [nrows] nearest centroid */
	const float *distances;		/* [nrows] squared distance to it */
	const uint8_t *codes;		/* [nrows][m], one code each */
	const VqFactors *factors;	/* [nrows], as vq_codec_encode makes them */
} VqGpuBatch;

typedef struct VqGpu VqGpu;

typedef struct VqGpuInterface
{
	uint32_t	abi_version;
	uint32_t	bytes;			/* of this struct in the plug-in; functions
								 * may be added at its end */
	const char *name;			/* "cuda", or "double" for the one that tests
								 * use */

	/*
	 * Fill devices[0 .. capacity - 1], and set *ndevices to how many there
	 * are.  VQ_GPU_NO_DEVICE, and why, if there are none.
	 */
	VqGpuStatus (*devices) (VqGpuDevice *devices, size_t capacity, size_t *ndevices, VqGpuError *error);

	/*
	 * Open a device, or all.  Costs up to a second or two for the driver's
	 * own start.  *gpu is NULL unless VQ_GPU_OK.
	 */
	VqGpuStatus (*open) (const VqGpuOptions *options, VqGpu **gpu, VqGpuError *error);

	/* Give everything back.  NULL is allowed. */
	void		(*close) (VqGpu *gpu);

	/* What was opened: "NVIDIA L4", "2 x NVIDIA L4"; valid until close */
	const char *(*describe) (const VqGpu *gpu);

	/*----------
	 * A sample to train on.  begin plans for nrows rows and steps with up to
	 * max_centroids centroids.  add takes the rows in pieces of any size.  Of
	 * them the first *nresident are copied; the rows after those stay where
	 * the caller has them, who keeps them there, unchanged, until end: they
	 * are read again in every step.
	 *
	 * One sample at a time; begin ends the one before.
	 *----------
	 */
	VqGpuStatus (*sample_begin) (VqGpu *gpu, size_t dim, size_t nrows, size_t max_centroids,
								 size_t *nresident, VqGpuError *error);
	VqGpuStatus (*sample_add) (VqGpu *gpu, const float *rows, size_t nrows, VqGpuError *error);
	void		(*sample_end) (VqGpu *gpu);

	/*----------
	 * One step of k-means over rows first_row .. first_row + nrows - 1 of the
	 * sample: labels as vq_kmeans_assign, sums as vq_kmeans_clear followed by
	 * vq_kmeans_accumulate.  The caller makes the next centroids of the sums
	 * with vq_kmeans_update, so that the rule is the CPU's.
	 *
	 * centroids is float[ncentroids][dim].  sums, labels (uint32_t[nrows]) and
	 * distances (float[nrows]) may each be NULL: without sums this is an
	 * assignment.  The same rows, centroids and devices give the same sums, bit
	 * by bit.
	 *
	 * A label is that of the nearest centroid, or of one whose squared
	 * distance is larger by no more than the rounding of the products allows:
	 * 2^-7 (TF32) or 2^-6 (BF16) of |row| |centroid|, and far less as a rule.
	 *----------
	 */
	VqGpuStatus (*kmeans_step) (VqGpu *gpu, size_t first_row, size_t nrows,
								const float *centroids, size_t ncentroids,
								VqKmeansSums *sums, uint32_t *labels, float *distances,
								VqGpuError *error);

	/*----------
	 * Train all sub-quantisers, as vq_pq_train does it, on the directions
	 * (vq_codec_direction) of the residuals of ntrain rows of the sample
	 * against their nearest centroids: row i of them is row ceil(i * nrows / ntrain) of the sample.  codebook is
	 * float[m][dsub][ksub]; *mse (may be NULL) is the mean squared error of a
	 * direction's code before the last update.
	 *
	 * With a projection, directions are brought to code space first, and the
	 * error is measured there; the sample and the centroids have the dimension
	 * that sample_begin was told, all the same.  VQ_GPU_BAD_ARGUMENT if pq and
	 * projection do not fit each other and that dimension.
	 *
	 * Holds a copy of the directions on the host, ntrain * m * dsub floats.
	 *----------
	 */
	VqGpuStatus (*pq_train) (VqGpu *gpu, const VqPq *pq, const VqProjection *projection,
							 const float *centroids, size_t ncentroids, size_t ntrain, size_t niter, uint64_t seed,
							 float *codebook, double *mse, VqGpuError *error);

	/*----------
	 * Assign and encode batches of rows.  begin loads a model and makes the
	 * batches; a sample that is still there is ended.  Then, until the caller
	 * has no more rows:
	 *
	 *		acquire		*batch = one to fill, or NULL if all are under way or
	 *					not released
	 *		submit		start with batch->nrows rows, 1 .. capacity; returns at once
	 *		collect		wait for the one submitted first; NULL if there is none
	 *		release		it may be acquired again
	 *
	 * One batch is filled at a time: submit it, or release it, before the next
	 * acquire.  Batches are collected in the order in which they were
	 * submitted.  batch_rows is what the caller would like; capacity may be
	 * less.  begin says VQ_GPU_BAD_ARGUMENT if the parts of the model do not fit
	 * each other.
	 *----------
	 */
	VqGpuStatus (*encode_begin) (VqGpu *gpu, const VqGpuModel *model, size_t batch_rows,
								 VqGpuError *error);
	VqGpuStatus (*encode_acquire) (VqGpu *gpu, VqGpuBatch **batch, VqGpuError *error);
	VqGpuStatus (*encode_submit) (VqGpu *gpu, VqGpuBatch *batch, VqGpuError *error);
	VqGpuStatus (*encode_collect) (VqGpu *gpu, VqGpuBatch **batch, VqGpuError *error);
	void		(*encode_release) (VqGpu *gpu, VqGpuBatch *batch);
	void		(*encode_end) (VqGpu *gpu);

	/*
	 * Bytes that may be taken of that opened device that has the most, what is
	 * taken already included
	 */
	uint64_t	(*memory) (const VqGpu *gpu);
} VqGpuInterface;

/*
 * What the plug-in exports: writes the first bytes of its table, no more than
 * the caller has room for.  abi_version and bytes come first and always will.
 */
typedef void (*VqGpuEntry) (VqGpuInterface *interface, size_t bytes);

#endif							/* VQ_GPU_H */
