/*-------------------------------------------------------------------------
 *
 * gpu_model.h
 *	  Trained models as files, to be carried from one machine to another.
 *
 * The file, numbers in the byte order of the machine:
 *
 *		OFFSET	SIZE	FIELD
 *		0		8		"VQMODEL1"
 *		8		4 x 6	dim, nlists, m, nbits, metric, rotation		uint32_t
 *		32		4		scale										float
 *		36		4		0
 *		40		8		seed of the rotation						uint64_t
 *		48		4 x		mean [dim], centroids [nlists][dim],
 *						codebook [m][dsub][ksub]					float
 *
 *-------------------------------------------------------------------------
 */
#ifndef GPU_MODEL_H
#define GPU_MODEL_H

#include "kernels/vq_codec.h"

typedef struct GpuModel
{
	VqCodec		codec;			/* points to the arrays below */
	size_t		nlists;
	uint64_t	seed;			/* of the rotation */
	float	   *signs;
	float	   *mean;			/* [dim] */
	float	   *centroids;		/* [nlists][dim] */
	float	   *codebook;		/* [m][dsub][ksub] */
} GpuModel;

/* Allocate the arrays: codec.metric, codec.rotation, codec.pq, nlists and seed are set */
extern void model_alloc(GpuModel *model);
extern void model_free(GpuModel *model);

/* These end the program if the file cannot be written, or is no sound model */
extern void model_write(const GpuModel *model, const char *name);
extern void model_read(GpuModel *model, const char *name);

#endif							/* GPU_MODEL_H */
