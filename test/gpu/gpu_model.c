/*-------------------------------------------------------------------------
 *
 * gpu_model.c
 *	  Trained models as files.
 *
 *-------------------------------------------------------------------------
 */
#include "gpu_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu_data.h"

#define MAGIC "VQMODEL1"

/* What a file begins with */
typedef struct Header
{
	char		magic[8];
	uint32_t	dim;
	uint32_t	nlists;
	uint32_t	m;
	uint32_t	nbits;
	uint32_t	metric;
	uint32_t	rotation;
	float		scale;
	uint32_t	is_projected;
	uint64_t	seed;
} Header;

_Static_assert(sizeof(Header) == 48, "the header has no gaps");

void
model_alloc(GpuModel *model)
{
	VqCodec    *codec = &model->codec;
	size_t		dim = codec->dim;

	model->signs = data_alloc(vq_rotate_sign_bytes(dim), 1);
	model->mean = data_alloc(dim, sizeof(float));
	model->centroids = data_alloc(model->nlists * dim, sizeof(float));
	model->codebook = data_alloc(vq_pq_codebook_floats(&codec->pq), sizeof(float));
	vq_rotate_signs(model->seed, dim, model->signs);
	codec->signs = model->signs;
	codec->mean = model->mean;
	codec->codebook = model->codebook;
	if (codec->is_projected)
		model->image = data_alloc(vq_project_bytes(dim, codec->pq.dim), 1);
}

void
model_open_projection(GpuModel *model)
{
	if (vq_project_open(&model->codec.projection, model->codec.dim, model->codec.pq.dim, model->image) != VQ_OK)
		data_die("a model", "has no sound projection");
}

void
model_free(GpuModel *model)
{
	free(model->signs);
	free(model->mean);
	free(model->centroids);
	free(model->codebook);
	free(model->image);
}

void
model_write(const GpuModel *model, const char *name)
{
	const VqCodec *codec = &model->codec;
	const VqPq *pq = &codec->pq;
	FILE	   *file = fopen(name, "wb");
	Header		header = {
		.dim = codec->dim,
		.nlists = (uint32_t) model->nlists,
		.m = pq->m,
		.nbits = pq->nbits,
		.metric = codec->metric,
		.rotation = codec->rotation,
		.scale = codec->scale,
		.is_projected = codec->is_projected,
		.seed = model->seed
	};
	size_t		ncentroids = model->nlists * codec->dim;
	size_t		ncodebook = vq_pq_codebook_floats(pq);
	size_t		image_bytes = vq_project_bytes(codec->dim, pq->dim);

	memcpy(header.magic, MAGIC, sizeof(header.magic));
	if (file == NULL ||
		fwrite(&header, sizeof(header), 1, file) != 1 ||
		fwrite(model->mean, sizeof(float), codec->dim, file) != codec->dim ||
		fwrite(model->centroids, sizeof(float), ncentroids, file) != ncentroids ||
		fwrite(model->codebook, sizeof(float), ncodebook, file) != ncodebook ||
		(codec->is_projected && (fwrite(&codec->error_scale, sizeof(float), 1, file) != 1 ||
								 fwrite(model->image, 1, image_bytes, file) != image_bytes)) ||
		fclose(file) != 0)
		data_die(name, "cannot be written");
}

static void
read_floats(FILE *file, const char *name, float *values, size_t count)
{
	if (fread(values, sizeof(float), count, file) != count)
		data_die(name, "ends early");
	for (size_t i = 0; i < count; i++)
		if (!isfinite(values[i]))
			data_die(name, "has a value that is not finite");
}

static void
read_projection(FILE *file, const char *name, GpuModel *model)
{
	VqCodec    *codec = &model->codec;
	size_t		image_bytes = vq_project_bytes(codec->dim, codec->pq.dim);

	read_floats(file, name, &codec->error_scale, 1);
	if (!(codec->error_scale > 0) || fread(model->image, 1, image_bytes, file) != image_bytes)
		data_die(name, "has no sound projection");
	model_open_projection(model);
}

void
model_read(GpuModel *model, const char *name)
{
	FILE	   *file = fopen(name, "rb");
	Header		header;

	memset(model, 0, sizeof(*model));
	if (file == NULL || fread(&header, sizeof(header), 1, file) != 1 ||
		memcmp(header.magic, MAGIC, sizeof(header.magic)) != 0)
		data_die(name, "cannot be read as a model");
	if (vq_codec_init(&model->codec, header.dim, header.m, header.nbits, header.is_projected != 0) != VQ_OK ||
		header.metric < VQ_METRIC_L2 || header.metric > VQ_METRIC_COSINE ||
		header.rotation > VQ_ROTATION_HADAMARD || header.nlists < 1 || !(header.scale > 0))
		data_die(name, "describes no model");
	model->codec.metric = (VqMetric) header.metric;
	model->codec.rotation = (VqRotation) header.rotation;
	model->codec.scale = header.scale;
	model->nlists = header.nlists;
	model->seed = header.seed;
	model_alloc(model);
	read_floats(file, name, model->mean, header.dim);
	read_floats(file, name, model->centroids, model->nlists * header.dim);
	read_floats(file, name, model->codebook, vq_pq_codebook_floats(&model->codec.pq));
	if (model->codec.is_projected)
		read_projection(file, name, model);
	if (fgetc(file) != EOF)
		data_die(name, "is longer than its model");
	fclose(file);
}
