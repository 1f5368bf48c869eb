/*-------------------------------------------------------------------------
 *
 * ivfpq_gpu.h
 *	  GPUs in a build: the plug-in (gpu/vq_gpu.h) with the server's manners.
 *
 * Only the leader of a build has one, in its own process.  Functions below that
 * return bool or a pointer take NULL for "no GPU", and then as after a failure
 * say false or NULL: the caller does the work itself.  A failure has been
 * reported by then, once, and the device is free again.  Where ivfpq.gpu is
 * "on" it is an ERROR instead.  Those that take a team are for all of its members
 * to call, and say the same to all.
 *
 *-------------------------------------------------------------------------
 */
#ifndef IVFPQ_GPU_H
#define IVFPQ_GPU_H

#include "am/ivfpq_train.h"
#include "gpu/vq_gpu.h"

/* The plug-in that lies beside this library; VQ_GPU_NO_LIBRARY and the reason if there is none */
extern VqGpuStatus ivfpq_gpu_load(VqGpuInterface *interface, VqGpuError *error);

/*
 * Open what ivfpq.gpu and ivfpq.gpu_device say for an index of about nrows rows.
 * NULL if nothing is to be used.  What is returned must be closed, also after
 * an error; it is palloc'd.
 */
extern IvfpqGpu *ivfpq_gpu_open(const char *index_name, double nrows, size_t dim);
extern void ivfpq_gpu_close(IvfpqGpu *gpu);

/* Is it open still? */
extern bool ivfpq_gpu_is_open(const IvfpqGpu *gpu);

/* What it is, for ivfpq_index_info; also when it is no longer open */
extern const char *ivfpq_gpu_name(const IvfpqGpu *gpu);

/*
 * Bytes of a sample that its memory surely holds beside that many lists of dim dimensions; more is read from the leader's
 * memory again and again
 */
extern size_t ivfpq_gpu_sample_room(const IvfpqGpu *gpu, size_t nlists, size_t dim);

/*
 * Take over the sample of a team, to be compared with at most max_centroids.
 * Rows of a team of one must stay where and as they are until
 * ivfpq_gpu_sample_end; of a larger one, what the device has no room for is
 * left out.
 */
extern bool ivfpq_gpu_sample_begin(IvfpqTeam *team, IvfpqGpu *gpu, const IvfpqSample *sample,
								   size_t max_centroids);
extern void ivfpq_gpu_sample_end(IvfpqGpu *gpu);

/* Rows of it */
extern size_t ivfpq_gpu_sample_rows(const IvfpqGpu *gpu);

/* Add all of them up by their nearest lists: see kmeans_step */
extern bool ivfpq_gpu_kmeans_step(IvfpqGpu *gpu, const IvfpqLists *lists, VqKmeansSums *sums);

/* Train a codebook on the residuals of ntrain rows of the sample, in code space; codec->projection is there */
extern bool ivfpq_gpu_train_codebook(IvfpqGpu *gpu, const VqCodec *codec, const IvfpqLists *lists,
									 size_t ntrain, size_t niter, float *codebook);

/*
 * Assign and encode batches of rows: see encode_begin.  acquire and collect
 * leave NULL in *batch where the plug-in does.
 */
extern bool ivfpq_gpu_encode_begin(IvfpqGpu *gpu, const VqCodec *codec, const IvfpqLists *lists,
								   size_t batch_rows);
extern bool ivfpq_gpu_encode_acquire(IvfpqGpu *gpu, VqGpuBatch **batch);
extern bool ivfpq_gpu_encode_submit(IvfpqGpu *gpu, VqGpuBatch *batch);
extern bool ivfpq_gpu_encode_collect(IvfpqGpu *gpu, VqGpuBatch **batch);
extern void ivfpq_gpu_encode_release(IvfpqGpu *gpu, VqGpuBatch *batch);

#endif							/* IVFPQ_GPU_H */
