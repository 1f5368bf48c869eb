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
 *		36		4		1 with a projection, else 0					uint32_t
 *		40		8		seed of the rotation						uint64_t
 *		48		4 x		mean [dim], centroids [nlists][dim],
 *						codebook [m][dsub][ksub]					float
 *
 *				4		error scale, where there is a projection	float
 *						its image, of vq_project_bytes
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
	void	   *image;			/* of the projection; NULL: none */
} GpuModel;

/* Allocate the arrays: codec of vq_codec_init, its metric and rotation, nlists and seed are set */
extern void model_alloc(GpuModel *model);

/* The image has been filled in; ends the program if it is none */
extern void model_open_projection(GpuModel *model);

extern void model_free(GpuModel *model);

/* These end the program if the file cannot be written, or is no sound model */
extern void model_write(const GpuModel *model, const char *name);
extern void model_read(GpuModel *model, const char *name);

#endif							/* GPU_MODEL_H */
