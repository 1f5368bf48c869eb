/*-------------------------------------------------------------------------
 *
 * vq_codec.c
 *	  Codes with factors, and queries with bounds.
 *
 * The vectors are float32; the dozen numbers made of their products are double,
 * so that squares of large and small numbers need no thought.  What errors
 * remain are those of the kernels' sums, and every bound is loosened by a
 * margin of about 16 units in the last place of the terms it was made from.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_codec.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define LANES 16

/* Of a code with a projection: fewer dimensions lose more than finer codes of them bring, and more cost time */
#define BITS_PER_DIMENSION 2

/* Relative margin for sums of float32 products: 2^-20 */
#define MARGIN (8 * (double) FLT_EPSILON)

/* Codes with a squared cosine to their residual at or below this stand for nothing */
#define MIN_COSINE_SQ 0.125

/* Longest vector of model space, squared: 2^80 */
#define MAX_NORM_SQ 1208925819614629174706176.0

/* Squared lengths in which neither the sum nor its reciprocal root leaves float32 */
#define SAFE_NORM_SQ_MIN 1e-20f
#define SAFE_NORM_SQ_MAX 1e20f

/* Below this, squares of coordinates may have vanished from a squared length */
#define VANISHING_NORM_SQ 1e-30

VqStatus
vq_codec_init(VqCodec *codec, size_t dim, size_t m, size_t nbits, bool is_projected)
{
	size_t		code_dim = dim;

	codec->dim = (uint32_t) dim;
	codec->is_projected = is_projected;
	codec->error_scale = 1;
	if (is_projected && m >= 1 && m <= dim)
	{
		size_t		dsub = nbits / BITS_PER_DIMENSION;

		code_dim = m * (dsub < dim / m ? dsub : dim / m);
	}
	return dim <= VQ_MAX_DIM ? vq_pq_init(&codec->pq, code_dim, m, nbits) : VQ_BAD_ARGUMENT;
}

static void
multiply(float *restrict x, float factor, size_t dim)
{
	size_t		i = 0;

	for (; i + LANES <= dim; i += LANES)
	{
		for (size_t lane = 0; lane < LANES; lane++)
			x[i + lane] *= factor;
	}
	for (; i < dim; i++)
		x[i] *= factor;
}

/* x := (x - mean) * factor */
static void
subtract_multiply(float *restrict x, const float *restrict mean, float factor, size_t dim)
{
	size_t		i = 0;

	for (; i + LANES <= dim; i += LANES)
	{
		for (size_t lane = 0; lane < LANES; lane++)
			x[i + lane] = (x[i + lane] - mean[i + lane]) * factor;
	}
	for (; i < dim; i++)
		x[i] = (x[i] - mean[i]) * factor;
}

/* Scale x to length 1 in place and say how long it was */
static VqStatus
normalise(const VqKernels *kernels, float *x, size_t dim, double *norm)
{
	float		norm_sq = kernels->ip_f32(x, x, dim);
	double		sum = 0;

	if (norm_sq > SAFE_NORM_SQ_MIN && norm_sq < SAFE_NORM_SQ_MAX)
	{
		*norm = sqrt((double) norm_sq);
		multiply(x, (float) (1 / *norm), dim);
		return VQ_OK;
	}
	for (size_t i = 0; i < dim; i++)
		sum += (double) x[i] * x[i];
	if (!isfinite(sum))
		return VQ_NOT_FINITE;
	if (sum == 0)
		return VQ_ZERO_VECTOR;
	*norm = sqrt(sum);
	for (size_t i = 0; i < dim; i++)
		x[i] = (float) (x[i] / *norm);
	return VQ_OK;
}

/*
 * Lengths are checked before the rotation, which keeps them: its sums could
 * overflow where the result would not.
 */
static VqStatus
rotate_checked(const VqKernels *kernels, const VqCodec *codec, float *x)
{
	size_t		dim = codec->dim;

	if (!(kernels->ip_f32(x, x, dim) <= MAX_NORM_SQ))
		return VQ_NOT_FINITE;
	if (codec->rotation == VQ_ROTATION_HADAMARD)
		vq_rotate(kernels, codec->signs, dim, x);
	return VQ_OK;
}

VqStatus
vq_codec_transform(const VqKernels *kernels, const VqCodec *codec,
				   const float *x, float *x_model)
{
	size_t		dim = codec->dim;
	VqStatus	status = VQ_OK;
	double		norm;

	if (x_model != x)
		memcpy(x_model, x, dim * sizeof(float));
	switch (codec->metric)
	{
		case VQ_METRIC_L2:
			subtract_multiply(x_model, codec->mean, codec->scale, dim);
			break;
		case VQ_METRIC_IP:
			multiply(x_model, codec->scale, dim);
			break;
		case VQ_METRIC_COSINE:
			status = normalise(kernels, x_model, dim, &norm);
			if (status == VQ_OK)
				subtract_multiply(x_model, codec->mean, 1, dim);
			break;
	}
	if (status == VQ_OK)
		status = rotate_checked(kernels, codec, x_model);
	if (status == VQ_NOT_FINITE)
		memset(x_model, 0, dim * sizeof(float));
	return status;
}

void
vq_codec_restore(const VqKernels *kernels, const VqCodec *codec,
				 const float *x_model, float *x)
{
	size_t		dim = codec->dim;

	if (x != x_model)
		memcpy(x, x_model, dim * sizeof(float));
	if (codec->rotation == VQ_ROTATION_HADAMARD)
		vq_rotate_back(kernels, codec->signs, dim, x);
	for (size_t i = 0; i < dim; i++)
	{
		if (codec->metric != VQ_METRIC_COSINE)
			x[i] /= codec->scale;
		if (codec->metric != VQ_METRIC_IP)
			x[i] += codec->mean[i];
	}
}

void
vq_codec_to_codes(const VqKernels *kernels, const VqCodec *codec, const float *x_model, float *x_code)
{
	if (codec->is_projected)
	{
		vq_project(kernels, &codec->projection, x_model, x_code);
		return;
	}
	memcpy(x_code, x_model, codec->dim * sizeof(float));
	memset(x_code + codec->dim, 0, (vq_codec_code_floats(codec) - codec->dim) * sizeof(float));
}

/* Of S: see the table in vq_codec.h */
static double
s_numerator(const VqCodec *codec)
{
	return codec->metric == VQ_METRIC_IP ? 1 : 2;
}

/*
 * |r| is S <r/|r|,r^> / 2 (S <r/|r|,r^> for IP).  A code's part is the mean of what it
 * stands for, so <r/|r|,r^> is |r^|^2, on average.
 */
void
vq_codec_decode(const VqKernels *kernels, const VqCodec *codec, const uint8_t *codes,
				const VqFactors *factors, const float *centroid, float *work, float *x_model)
{
	size_t		code_dim = codec->pq.dim;

	vq_pq_decode(&codec->pq, codec->codebook, codes, work);
	multiply(work, (float) (factors->s / VQ_S_ONE / s_numerator(codec) * kernels->ip_f32(work, work, code_dim)),
			 code_dim);
	memcpy(x_model, centroid, codec->dim * sizeof(float));
	if (codec->is_projected)
		vq_project_back(&codec->projection, work, x_model);
	else
	{
		for (size_t i = 0; i < codec->dim; i++)
			x_model[i] += work[i];
	}
}

static bool
is_zero(const float *x, size_t dim)
{
	for (size_t i = 0; i < dim; i++)
	{
		if (x[i] != 0)
			return false;
	}
	return true;
}

/* |x| from the sum of squares, not 0 unless x is: squares of float32 can vanish */
static double
length(double norm_sq, const float *x, size_t dim)
{
	if (norm_sq < VANISHING_NORM_SQ && !is_zero(x, dim))
		norm_sq += VANISHING_NORM_SQ;
	return sqrt(norm_sq);
}

void
vq_codec_direction(const VqKernels *kernels, float *x, size_t dim)
{
	double		norm = length(kernels->ip_f32(x, x, dim), x, dim);

	if (norm > 0)
		multiply(x, (float) (1 / norm), dim);
}

/* The residual in model space, and in code space with its decoded code, both padded */
size_t
vq_codec_encode_floats(const VqCodec *codec)
{
	return codec->dim + 2 * (size_t) codec->pq.m * codec->pq.dsub;
}

/* residual := x - centroid, padded with zeros */
static void
subtract_padded(const float *restrict x, const float *restrict centroid, size_t dim,
				size_t padded_dim, float *restrict residual)
{
	size_t		i = 0;

	for (; i + LANES <= dim; i += LANES)
	{
		for (size_t lane = 0; lane < LANES; lane++)
			residual[i + lane] = x[i + lane] - centroid[i + lane];
	}
	for (; i < dim; i++)
		residual[i] = x[i] - centroid[i];
	for (; i < padded_dim; i++)
		residual[i] = 0;
}

/*
 * Factors by the table in vq_codec.h, in three steps: S and E of the estimate
 * by the code; those of the sphere instead, where these are better; A and the
 * packing for either.  The zero padding of a residual takes no part: its code
 * may be anything, but neither centroids nor queries have anything there.
 */
void
vq_codec_encode(const VqKernels *kernels, const VqCodec *codec,
				const float *x_model, const float *centroid,
				const float *x_code, const float *centroid_code,
				float *work, uint8_t *codes, VqFactors *factors)
{
	const VqPq *pq = &codec->pq;
	size_t		dim = codec->dim;
	size_t		padded_dim = (size_t) pq->m * pq->dsub;
	float	   *decoded = work;
	float	   *residual_code = decoded + padded_dim;
	float	   *residual = residual_code;
	bool		is_ip = codec->metric == VQ_METRIC_IP;
	double		numerator = s_numerator(codec);
	float		products[3];	/* <r/|r|,r^>, |r/|r||^2 in code space, |r^|^2 */
	float		cross[3];		/* <c,r^>, |c|^2 in code space, |r^|^2 */
	double		norm_sq;		/* |r|^2 */
	double		norm;
	double		known;			/* the part of A without S */
	double		known_size;
	double		fit;			/* a |r| */
	double		code_sq;
	double		s = 0;			/* as stored */
	double		e;

	subtract_padded(x_code, centroid_code, pq->dim, padded_dim, residual_code);
	if (codec->is_projected)
	{
		residual = residual_code + padded_dim;
		subtract_padded(x_model, centroid, dim, dim, residual);
	}
	norm_sq = kernels->ip_f32(residual, residual, dim);
	norm = length(norm_sq, residual, dim);
	e = numerator * norm * (1 + MARGIN);
	if (is_ip)
	{
		/* <c,w> / a is S <c,r^> - <c,r> */
		known = -kernels->ip_f32(centroid, residual, dim);
		known_size = sqrt(kernels->ip_f32(centroid, centroid, dim)) * norm;
	}
	else
		known = known_size = norm_sq;

	if (norm > 0)
		multiply(residual_code, (float) (1 / norm), pq->dim);
	kernels->pq_encode(residual_code, codec->codebook, pq->m, pq->dsub, pq->ksub, codes);
	vq_pq_decode(pq, codec->codebook, codes, decoded);
	kernels->ip_norms_f32(residual_code, decoded, pq->dim, products);
	kernels->ip_norms_f32(centroid_code, decoded, pq->dim, cross);
	fit = products[0];
	code_sq = products[2];

	if (fit > 0 && fit * fit > MIN_COSINE_SQ * code_sq)
	{
		double		exact_s = numerator * norm / fit;
		double		stored_s = floor(exact_s * VQ_S_ONE + 0.5) / VQ_S_ONE;
		double		rounding = fabs(stored_s - exact_s);
		double		error_norm_sq = code_sq - fit * fit;
		double		error_norm;
		double		estimate_e;

		/* |w|^2 by subtraction is no better than its terms, of which |r^|^2 is that in code space */
		error_norm = sqrt((error_norm_sq > 0 ? error_norm_sq : 0) +
						  (codec->is_projected ? MARGIN + codec->projection.defect : MARGIN) * code_sq);

		/*
		 * The rounding of S acts on <q' - c, r^>, and r^ = w + a r.  Of this, w
		 * is random to the query, but r is not: queries near x have all of
		 * q' - c in its direction.
		 */
		estimate_e = codec->error_scale * (exact_s + rounding) * error_norm / sqrt(dim > 1 ? (double) dim - 1 : 1) +
			rounding * fit;
		if (stored_s * VQ_S_ONE <= UINT16_MAX && estimate_e < e)
		{
			s = stored_s;
			e = estimate_e;
		}
	}

	factors->s = (uint16_t) (s * VQ_S_ONE);
	factors->a = (float) (known + s * cross[0] -
						  MARGIN * (known_size + s * sqrt(cross[1] * code_sq)));
	if (!isfinite(factors->a) || vq_codec_pack_e((float) e, &factors->e) != VQ_OK)
		vq_codec_encode_exact(factors);
}

void
vq_codec_encode_exact(VqFactors *factors)
{
	factors->a = -INFINITY;
	factors->s = 0;
	factors->e = 0;
}

float
vq_codec_unpack_e(uint8_t packed)
{
	uint32_t	bits = (uint32_t) packed << VQ_E_SHIFT;
	float		small;

	memcpy(&small, &bits, sizeof(small));
	return small * ldexpf(1, VQ_E_SCALE_LOG2);
}

VqStatus
vq_codec_pack_e(float e, uint8_t *packed)
{
	float		small = e * ldexpf(1, -VQ_E_SCALE_LOG2);
	uint32_t	bits;

	if (!(e >= 0 && e <= vq_codec_unpack_e(UINT8_MAX)))
		return VQ_BAD_ARGUMENT;
	memcpy(&bits, &small, sizeof(bits));
	*packed = (uint8_t) ((bits + (((uint32_t) 1 << VQ_E_SHIFT) - 1)) >> VQ_E_SHIFT);

	/* Scaling may have rounded down what float32 has no normal number for */
	if (vq_codec_unpack_e(*packed) < e)
		(*packed)++;
	return VQ_OK;
}

void
vq_codec_query_tables(const VqKernels *kernels, const VqCodec *codec, VqQuery *query)
{
	const VqPq *pq = &codec->pq;

	vq_codec_to_codes(kernels, codec, query->q_model, query->q_code);
	query->q_norm_sq = kernels->ip_f32(query->q_model, query->q_model, codec->dim);
	kernels->pq_lut(query->q_code, codec->codebook, pq->m, pq->dsub, pq->ksub, query->lut_floats);
	vq_pq_quantise_lut(kernels, pq, query->lut_floats, query->lut, &query->lut_scale);
}

VqStatus
vq_codec_query(const VqKernels *kernels, const VqCodec *codec,
			   const float *q, VqQuery *query)
{
	size_t		dim = codec->dim;
	VqStatus	status;
	double		norm;

	query->unit = 2;
	if (codec->metric == VQ_METRIC_IP)
	{
		memcpy(query->q_model, q, dim * sizeof(float));
		status = normalise(kernels, query->q_model, dim, &norm);
		if (status == VQ_OK)
		{
			query->unit = codec->scale / norm;
			status = rotate_checked(kernels, codec, query->q_model);
		}
	}
	else
	{
		status = vq_codec_transform(kernels, codec, q, query->q_model);
		if (codec->metric == VQ_METRIC_L2)
			query->unit = (double) codec->scale * codec->scale;
	}
	if (status == VQ_OK)
		vq_codec_query_tables(kernels, codec, query);
	return status;
}

/* A product is known but for the sums that it comes from: where the centroid is very long, that is much, and the list may be the best */
float
vq_codec_list_value(const VqCodec *codec, const VqQuery *query,
					float distance_sq, float centroid_norm_sq)
{
	double		norms_sq = (double) query->q_norm_sq + centroid_norm_sq;

	if (codec->metric == VQ_METRIC_IP)
		return (float) ((distance_sq - norms_sq) / 2 - MARGIN / 4 * (distance_sq + norms_sq));
	return distance_sq;
}

/*
 * The margin below B covers the sums it was made from, and that q', c and the
 * vectors themselves are no more exact than float32: an error of theirs moves
 * a squared distance by twice its product with |q' - c|.
 */
void
vq_codec_list_bound(const VqCodec *codec, const VqQuery *query,
					float distance_sq, float centroid_norm_sq,
					float epsilon, VqBound *bound)
{
	double		distance = sqrt((double) distance_sq);
	double		margin = 0;		/* of inner products it is in the value */
	float		lut_error;

	if (codec->metric != VQ_METRIC_IP)
		margin = MARGIN * distance_sq + MARGIN / 4 * distance *
			(sqrt((double) query->q_norm_sq) + sqrt((double) centroid_norm_sq));
	bound->base = (float) (vq_codec_list_value(codec, query, distance_sq, centroid_norm_sq) - margin);

	/*
	 * S is never negative, so the largest L that the sum may stand for gives the
	 * bound.  That has the confidence of the rest: the rounding of a table does not
	 * depend on the error of a code, so their sum is within epsilon standard errors
	 * of either as often as each of them.
	 */
	lut_error = epsilon * query->lut_scale.deviation + query->lut_scale.slack;
	bound->lut_bias = query->lut_scale.bias + fminf(lut_error, query->lut_scale.error);
	bound->lut_step = query->lut_scale.step;
	bound->reach = (float) (epsilon * distance);
}
