/*-------------------------------------------------------------------------
 *
 * vq_rng.c
 *	  splitmix64: a counter that is stepped by an odd constant, and a mixing
 *	  of its bits.
 *
 * Every result follows from 64-bit integer arithmetic alone, so it is the same
 * on every machine.  It must stay so: an index on disk depends on it.
 *
 *-------------------------------------------------------------------------
 */
#include "kernels/vq_rng.h"

/* Bits 64 to 127 of a * b, from 32-bit halves: not every compiler has 128-bit integers */
static uint64_t
multiply_high(uint64_t a, uint64_t b)
{
	uint64_t	a_low = a & UINT32_MAX;
	uint64_t	a_high = a >> 32;
	uint64_t	b_low = b & UINT32_MAX;
	uint64_t	b_high = b >> 32;
	uint64_t	middle = a_high * b_low + ((a_low * b_low) >> 32);
	uint64_t	middle_low = a_low * b_high + (middle & UINT32_MAX);

	return a_high * b_high + (middle >> 32) + (middle_low >> 32);
}

void
vq_rng_seed(VqRng *rng, uint64_t seed)
{
	rng->state = seed;
}

uint64_t
vq_rng_next(VqRng *rng)
{
	uint64_t	z;

	rng->state += UINT64_C(0x9E3779B97F4A7C15);
	z = rng->state;
	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

/*
 * The high half of a product maps 2^64 draws onto n values; some values get
 * one draw more than others, which no test can see while n is far below 2^64.
 */
uint64_t
vq_rng_below(VqRng *rng, uint64_t n)
{
	return multiply_high(vq_rng_next(rng), n);
}

double
vq_rng_double(VqRng *rng)
{
	/* 53 bits are what a double holds */
	return (double) (vq_rng_next(rng) >> 11) / 9007199254740992.0;
}
