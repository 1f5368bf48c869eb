/*-------------------------------------------------------------------------
 *
 * vq_gpu_device.cuh
 *	  What the files of the plug-in share: devices, their memory, errors,
 *	  waiting, and the one operation that training and encoding have in common.
 *
 * Errors.  Functions return a VqGpuStatus; TRY and CUDA pass it up.  The text
 * is written where the error happens, into the caller's VqGpuError, which the
 * handle points to for as long as an entry point runs.  The entry point ends
 * with vq_gpu_finish, which gives the devices back if it failed.
 *
 * Memory.  Every allocation belongs to a scope and is given back with it, so
 * that no path out of a function has to remember it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_GPU_DEVICE_CUH
#define VQ_GPU_DEVICE_CUH

#include <cuda_runtime.h>
#include <cuda_bf16.h>
#include <cublas_v2.h>

extern "C"
{
#include "gpu/vq_gpu.h"
}

#define VQ_GPU_MAX_DEVICES 16
#define VQ_GPU_WARP 32

/* Batches under way at a device: one comes, one is computed, one goes */
#define VQ_GPU_SLOTS 3

/* Centroids and sums cross the bus in pieces, so that one is copied while the host is at the next; tests have smaller ones */
#ifndef VQ_GPU_PIECE_BYTES
#define VQ_GPU_PIECE_BYTES ((size_t) 2 << 20)
#endif

enum VqGpuScope
{
	SCOPE_SAMPLE,
	SCOPE_PQ,
	SCOPE_ENCODE,
	SCOPE_DEVICE,				/* for as long as it is open */
	NSCOPES
};

struct VqGpuAllocation
{
	VqGpuAllocation *next;
	void	   *address;
	size_t		bytes;
	bool		is_host;		/* pinned */
};

/* Centroids on a device */
struct VqGpuCentroids
{
	size_t		capacity;
	size_t		count;
	size_t		dim;
	size_t		stride;			/* floats from one to the next; the rest is zero */
	float	   *values;			/* [capacity][stride] */
	__nv_bfloat16 *values_bf16; /* the same, only for products in BF16 */
	float	   *half_norms;		/* [capacity + 4], |c|^2 / 2; infinity after the last */
};

/* The two best centroids of a row so far, by rounded products */
struct VqGpuNearest
{
	float		value[2];		/* <x,c> - |c|^2 / 2 */
	uint32_t	label[2];		/* VQ_GPU_NO_LABEL: there is none */
};

#define VQ_GPU_NO_LABEL UINT32_MAX

/* Workspace of vq_gpu_assign, and the shape of its tiles */
struct VqGpuAssignWork
{
	size_t		row_tile;
	size_t		centroid_tile;	/* a multiple of 4 */
	float	   *products;		/* [row_tile][centroid_tile] */
	__nv_bfloat16 *rows_bf16;	/* [row_tile][stride] */
	VqGpuNearest *nearest;		/* [row_tile] */
};

/* Chunks of a sample, or a batch, on their way through a device */
struct VqGpuSlot
{
	cudaEvent_t copied_in;
	cudaEvent_t computed;
	cudaEvent_t done;			/* results are on the host */
	bool		is_pending;

	/* of a chunk of the sample */
	size_t		first_row;		/* in the step */
	size_t		nrows;

	void	   *host_piece;		/* VQ_GPU_PIECE_BYTES; both are of vq_gpu_pin_rows */
	float	   *host_rows;
	float	   *rows;
	uint32_t   *host_labels;
	uint32_t   *labels;
	float	   *host_distances;
	float	   *distances;

	/* of a batch to encode */
	VqGpuBatch	batch;
	int			batch_state;
	uint8_t    *host_codes;
	uint8_t    *codes;			/* [capacity][m] */
	VqFactors  *host_factors;
	VqFactors  *factors;
};

struct VqGpuState				/* of one device */
{
	VqGpu	   *gpu;
	int			index;
	cudaDeviceProp properties;
	bool		is_entered;		/* and released at the end; one that could not be was never current */
	bool		owns_context;	/* nobody in this process used the device before */
	bool		has_tf32;
	cudaStream_t copy_in;
	cudaStream_t compute;
	cudaStream_t copy_out;
	cublasHandle_t cublas;
	size_t		budget;			/* bytes that may be allocated */
	size_t		used;
	VqGpuAllocation *allocations[NSCOPES];
	VqGpuSlot	slots[VQ_GPU_SLOTS];
	size_t		pinned_floats;	/* of the host_rows of each */

	/* sample: see vq_gpu_sample.cu, and vq_gpu_kmeans.cu for sums */
	size_t		resident_first; /* number of its first row in the sample */
	size_t		resident_rows;
	float	   *resident;		/* [resident_rows][stride] */
	VqGpuCentroids centroids;
	VqGpuAssignWork assign;
	size_t		sum_places;		/* centroids whose sums there is room for */
	double	   *sums;			/* [nsplits][ncentroids][dim] */
	uint64_t   *counts;			/* [ncentroids] */
	double	   *error;			/* one number */
	uint32_t   *row_numbers;	/* [chunk], 0, 1, 2 .. */
	uint32_t   *sorted_rows;
	uint32_t   *sorted_labels;
	uint32_t   *starts;			/* [ncentroids + 1] */
	void	   *sort_work;
	size_t		sort_work_bytes;

	/* model to encode with: see vq_gpu_encode.cu */
	float	   *codebook;
	float	   *residuals;		/* [padded_dim][tile], their directions in code space */
	double2    *model_products; /* [tile], |r|^2 and <c,r> in model space */
	uint8_t    *codes;			/* [m][tile] */
	size_t		encode_tile;

	/* of a model with a projection */
	float	   *directions;		/* [pq.dim][stride] */
	float	   *code_centroids; /* [ncentroids][pq.dim], in code space */
};

/* A piece of the sample that the caller keeps */
struct VqGpuPiece
{
	const float *rows;
	size_t		first_row;
	size_t		nrows;
};

struct VqGpu
{
	VqGpuOptions options;
	VqGpuError *error;			/* of the entry point that runs */
	bool		is_broken;
	char		description[192];
	VqGpuProducts products;
	int			ndevices;
	VqGpuState	devices[VQ_GPU_MAX_DEVICES];

	/* sample */
	bool		has_sample;
	size_t		dim;
	size_t		stride;
	size_t		sample_rows;	/* planned */
	size_t		added_rows;
	size_t		resident_rows;	/* on all devices together; these come first */
	size_t		max_centroids;
	size_t		chunk_rows;
	VqGpuPiece *pieces;
	size_t		npieces;
	size_t		pieces_capacity;

	/* encoding */
	bool		is_encoding;
	VqMetric	metric;
	size_t		model_dim;		/* of the vectors */
	VqPq		pq;
	bool		is_projected;
	float		defect;			/* of its projection, 0 without one */
	float		error_scale;
	size_t		submitted;		/* batches, since begin */
	size_t		collected;
};

#define TRY(call) \
	do { \
		VqGpuStatus try_status = (call); \
		if (try_status != VQ_GPU_OK) \
			return try_status; \
	} while (0)

#define CUDA(gpu, call) TRY(vq_gpu_check((gpu), (call), #call))
#define CUBLAS(gpu, call) TRY(vq_gpu_check_cublas((gpu), (call), #call))
#define LAUNCHED(gpu, name) TRY(vq_gpu_check((gpu), cudaGetLastError(), name))

static inline size_t
vq_gpu_min(size_t a, size_t b)
{
	return a < b ? a : b;
}

static inline size_t
vq_gpu_max(size_t a, size_t b)
{
	return a > b ? a : b;
}

static inline size_t
vq_gpu_divide_up(size_t a, size_t b)
{
	return (a + b - 1) / b;
}

/* vq_gpu_device.cu */
VqGpuStatus vq_gpu_fail(VqGpuError *error, VqGpuStatus status, const char *format, ...)
__attribute__((format(printf, 3, 4)));
VqGpuStatus vq_gpu_check(VqGpu *gpu, cudaError_t result, const char *what);
VqGpuStatus vq_gpu_check_cublas(VqGpu *gpu, cublasStatus_t result, const char *what);

/* Begin and end of an entry point */
VqGpuStatus vq_gpu_begin(VqGpu *gpu, VqGpuError *error);
VqGpuStatus vq_gpu_finish(VqGpu *gpu, VqGpuStatus status);

VqGpuStatus vq_gpu_use(VqGpuState *device);
VqGpuStatus vq_gpu_alloc_bytes(VqGpuState *device, VqGpuScope scope, size_t count, size_t size,
							   bool is_host, void **address);
void		vq_gpu_free_scope(VqGpu *gpu, VqGpuScope scope);

/*
 * Have nrows pinned rows in each slot, with zeros between dim and stride.  They stay, as
 * pinning takes long, and are made anew only where they are too few; nothing may be under way.
 */
VqGpuStatus vq_gpu_pin_rows(VqGpuState *device, size_t nrows, size_t dim, size_t stride);

/* Bytes that may still be allocated */
size_t		vq_gpu_left(const VqGpuState *device);

/* Less of them, if others have taken memory of the device since it was opened */
VqGpuStatus vq_gpu_look_at_memory(VqGpuState *device);

/* Wait, and ask should_stop meanwhile */
VqGpuStatus vq_gpu_wait(VqGpuState *device, cudaEvent_t event);
VqGpuStatus vq_gpu_wait_stream(VqGpuState *device, cudaStream_t stream);
VqGpuStatus vq_gpu_stop_requested(VqGpu *gpu);

VqGpuStatus vq_gpu_devices(VqGpuDevice *devices, size_t capacity, size_t *ndevices, VqGpuError *error);
VqGpuStatus vq_gpu_open(const VqGpuOptions *options, VqGpu **gpu, VqGpuError *error);
void		vq_gpu_close(VqGpu *gpu);
const char *vq_gpu_describe(const VqGpu *gpu);
uint64_t	vq_gpu_memory(const VqGpu *gpu);

template<typename T>
static inline VqGpuStatus
vq_gpu_alloc(VqGpuState *device, VqGpuScope scope, size_t count, T **address)
{
	return vq_gpu_alloc_bytes(device, scope, count, sizeof(T), false, (void **) address);
}

template<typename T>
static inline VqGpuStatus
vq_gpu_alloc_host(VqGpuState *device, VqGpuScope scope, size_t count, T **address)
{
	return vq_gpu_alloc_bytes(device, scope, count, sizeof(T), true, (void **) address);
}

/* |x| of a sum of squares, as vq_codec.c has it; in double no square of a float vanishes */
__device__ static inline double
vq_gpu_length(double norm_sq)
{
	return norm_sq > 0 && norm_sq < 1e-30 ? sqrt(norm_sq + 1e-30) : sqrt(norm_sq);
}

/* Sum over the lanes of a warp, in all of them */
template<typename T>
__device__ static inline T
vq_gpu_sum_over_warp(T value)
{
	for (int offset = VQ_GPU_WARP / 2; offset > 0; offset /= 2)
		value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
	return value;
}

/* vq_gpu_assign.cu */

/* Floats from one row to the next on the device: aligned for tensor cores */
size_t		vq_gpu_stride(const VqGpu *gpu, size_t dim);

/* Rows that a device handles in a fraction of a second, and their bytes at most */
size_t		vq_gpu_chunk_rows(size_t dim, size_t stride, size_t ncentroids, size_t wanted);

/* Device bytes of both of these */
size_t		vq_gpu_assign_bytes(const VqGpuState *device, size_t stride, size_t ncentroids, size_t nrows);
VqGpuStatus vq_gpu_assign_alloc(VqGpuState *device, VqGpuScope scope, size_t dim, size_t stride,
								size_t ncentroids, size_t nrows, VqGpuCentroids *centroids,
								VqGpuAssignWork *work);

/* Send centroids, float[count][dim] on the host, and what follows from them; waits */
VqGpuStatus vq_gpu_set_centroids(VqGpuState *device, VqGpuCentroids *centroids, const float *values,
								 size_t count);

/*
 * labels and distances of nrows rows, all on the device, on the stream
 * compute; rows is float[nrows][stride].
 */
VqGpuStatus vq_gpu_assign(VqGpuState *device, const VqGpuCentroids *centroids,
						  const VqGpuAssignWork *work, const float *rows, size_t nrows,
						  uint32_t *labels, float *distances);

/*
 * out[j][i] = <a_i, b_j>, on the stream compute: a is [na][stride], b
 * [nb][stride], both of the type, out is float[nb][ld].
 */
VqGpuStatus vq_gpu_multiply(VqGpuState *device, const void *a, size_t na, const void *b, size_t nb, size_t stride,
							cudaDataType type, cublasComputeType_t compute, float *out, size_t ld);

/* vq_gpu_project.cu */

/* Do codes, vectors of that dimension and the projection (NULL: none) fit each other? */
bool		vq_gpu_fits(const VqPq *pq, size_t dim, const VqProjection *projection);

/*
 * Send directions first .. first + count - 1 to the device, float[count][stride]
 * padded with zeros, through the pinned rows of a slot that is not in use; waits
 */
VqGpuStatus vq_gpu_send_directions(VqGpuState *device, VqGpuSlot *slot, const VqProjection *projection,
								   size_t first, size_t count, size_t stride, float *to);

/*
 * The product of vq_gpu_multiply in float32.  With directions as a and rows as b,
 * out has a row for each row; with rows as a, it has one for each direction.
 */
VqGpuStatus vq_gpu_project(VqGpuState *device, const float *a, size_t na, const float *b, size_t nb,
						   size_t stride, float *out, size_t ld);

/* vq_gpu_sample.cu */
VqGpuStatus vq_gpu_sample_begin(VqGpu *gpu, size_t dim, size_t nrows, size_t max_centroids,
								size_t *nresident, VqGpuError *error);
VqGpuStatus vq_gpu_sample_add(VqGpu *gpu, const float *rows, size_t nrows, VqGpuError *error);
void		vq_gpu_sample_end(VqGpu *gpu);

/* Copy rows of dim floats to places of the stride, the rest of which is left as it is */
void		vq_gpu_copy_rows(const float *from, size_t nrows, size_t dim, size_t stride, float *to);

/* The same for rows of the sample that the caller keeps */
void		vq_gpu_copy_kept_rows(const VqGpu *gpu, size_t first_row, size_t nrows, float *to);

/* vq_gpu_kmeans.cu */

/*
 * Device bytes that steps over chunks of so many rows need beside what labels
 * them; and to allocate that, after this has been asked for gpu->chunk_rows
 */
VqGpuStatus vq_gpu_sums_bytes(VqGpuState *device, size_t chunk_rows, size_t *bytes);
VqGpuStatus vq_gpu_sums_alloc(VqGpuState *device);
VqGpuStatus vq_gpu_kmeans_step(VqGpu *gpu, size_t first_row, size_t nrows,
							   const float *centroids, size_t ncentroids,
							   VqKmeansSums *sums, uint32_t *labels, float *distances,
							   VqGpuError *error);

/* vq_gpu_residuals.cu */

/*
 * Rows become the directions of their residuals, those less their centroids, in place;
 * products[i] := |r|^2 and <c,r>, if it is not NULL.  centroids have the rows' stride
 */
VqGpuStatus vq_gpu_directions(VqGpuState *device, float *rows, size_t stride, size_t nrows, const uint32_t *labels,
							  const float *centroids, double2 *products);

/*
 * Those of ntrain rows of the sample, evenly spaced, for each the nearest of centroids, float[ncentroids][dim]
 * on the host: into residuals, float[ntrain][m * dsub] on the host, in code space.  projection may be NULL.
 */
VqGpuStatus vq_gpu_residuals(VqGpu *gpu, const VqPq *pq, const VqProjection *projection, const float *centroids,
							 size_t ncentroids, size_t ntrain, float *residuals);

/* vq_gpu_pq.cu */
VqGpuStatus vq_gpu_pq_train(VqGpu *gpu, const VqPq *pq, const VqProjection *projection,
							const float *centroids, size_t ncentroids, size_t ntrain, size_t niter, uint64_t seed,
							float *codebook, double *mse, VqGpuError *error);

/* points[p][i] = rows[i][p], zero for p at or above dim.  p < npoints; points is float[npoints][ld] */
VqGpuStatus vq_gpu_transpose(VqGpuState *device, const float *rows, size_t stride, size_t nrows,
							 size_t dim, size_t npoints, size_t ld, float *points);

/*
 * codes[j][i] for nsub sub-quantisers, of points[nsub * dsub][ld]; codes is
 * uint8_t[nsub][ld]
 */
VqGpuStatus vq_gpu_codes(VqGpuState *device, const float *points, size_t ld, size_t nrows,
						 const float *codebook, size_t nsub, size_t dsub, size_t ksub,
						 uint8_t *codes);

/* vq_gpu_encode.cu */
VqGpuStatus vq_gpu_encode_begin(VqGpu *gpu, const VqGpuModel *model, size_t batch_rows, VqGpuError *error);
VqGpuStatus vq_gpu_encode_acquire(VqGpu *gpu, VqGpuBatch **batch, VqGpuError *error);
VqGpuStatus vq_gpu_encode_submit(VqGpu *gpu, VqGpuBatch *batch, VqGpuError *error);
VqGpuStatus vq_gpu_encode_collect(VqGpu *gpu, VqGpuBatch **batch, VqGpuError *error);
void		vq_gpu_encode_release(VqGpu *gpu, VqGpuBatch *batch);
void		vq_gpu_encode_end(VqGpu *gpu);

#endif							/* VQ_GPU_DEVICE_CUH */
