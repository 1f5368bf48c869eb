/*-------------------------------------------------------------------------
 *
 * vq_cpu.c
 *	  What the processor can do.
 *
 * CPUID alone is not enough: an operating system that does not save the wide
 * registers on a context switch leaves their CPUID bits set, and XGETBV is
 * where it says what it saves.  The compilers' __builtin_cpu_supports knows
 * that too, but gcc 12 and clang 14 differ in the feature names they take.
 *
 *-------------------------------------------------------------------------
 */
#define _DEFAULT_SOURCE			/* syscall, where standard C is asked for */

#include "kernels/vq_cpu.h"

#include <stdatomic.h>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#if defined(VQ_HAVE_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* Bits of XCR0: which registers the operating system saves */
#define XCR0_AVX		0x06u	/* xmm and ymm */
#define XCR0_AVX512		0xE6u	/* and mask registers, zmm, zmm16 to zmm31 */
#define XCR0_TILES		0x60000u	/* shapes of tiles, and tiles */

/* CPUID leaf 1, ecx */
#define LEAF1_FMA		(1u << 12)
#define LEAF1_OSXSAVE	(1u << 27)
#define LEAF1_AVX		(1u << 28)
#define LEAF1_F16C		(1u << 29)

/* CPUID leaf 7, ebx, ecx and edx */
#define LEAF7_AVX2		(1u << 5)
#define LEAF7_AVX512F	(1u << 16)
#define LEAF7_AVX512DQ	(1u << 17)
#define LEAF7_AVX512BW	(1u << 30)
#define LEAF7_AVX512VL	(1u << 31)
#define LEAF7C_VBMI		(1u << 1)
#define LEAF7C_VNNI		(1u << 11)
#define LEAF7D_TILES	(1u << 24)
#define LEAF7D_TILES_I8	(1u << 25)

static inline bool
has_all(uint32_t value, uint32_t bits)
{
	return (value & bits) == bits;
}

/*
 * Linux keeps 8 kB of tiles for those processes only that ask before they touch one
 * (Documentation/arch/x86/xstate.rst).  Kernels before 5.16 know nothing of it, and a
 * sandbox may refuse.
 */
static bool
may_use_tiles(void)
{
#if defined(VQ_HAVE_AMX)
	const long	request = 0x1023;	/* ARCH_REQ_XCOMP_PERM */
	const long	tiles = 18;		/* the number of their bit in XCR0 */

	return syscall(SYS_arch_prctl, request, tiles) == 0;
#else
	return false;
#endif
}

static uint32_t
detect_features(void)
{
	uint32_t	eax,
				ebx,
				ecx,
				edx;
	uint32_t	leaf7_ebx,
				leaf7_ecx,
				leaf7_edx;
	uint32_t	xcr0,
				xcr0_high;
	uint32_t	features = 0;

	if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) ||
		!has_all(ecx, LEAF1_OSXSAVE | LEAF1_AVX | LEAF1_FMA | LEAF1_F16C))
		return 0;
	if (!__get_cpuid_count(7, 0, &eax, &leaf7_ebx, &leaf7_ecx, &leaf7_edx))
		return 0;

	/* OSXSAVE was set, so the instruction exists */
	__asm__ volatile ("xgetbv":"=a" (xcr0), "=d"(xcr0_high):"c"(0));
	(void) xcr0_high;

	if (has_all(xcr0, XCR0_AVX) && has_all(leaf7_ebx, LEAF7_AVX2))
		features |= VQ_CPU_AVX2;
	if ((features & VQ_CPU_AVX2) && has_all(xcr0, XCR0_AVX512) &&
		has_all(leaf7_ebx, LEAF7_AVX512F | LEAF7_AVX512DQ |
				LEAF7_AVX512BW | LEAF7_AVX512VL))
	{
		features |= VQ_CPU_AVX512;
		if (has_all(leaf7_ecx, LEAF7C_VNNI))
			features |= VQ_CPU_AVX512_VNNI;
		if (has_all(leaf7_ecx, LEAF7C_VBMI | LEAF7C_VNNI))
		{
			features |= VQ_CPU_AVX512_VBMI;
			if (has_all(xcr0, XCR0_TILES) && has_all(leaf7_edx, LEAF7D_TILES | LEAF7D_TILES_I8) &&
				may_use_tiles())
				features |= VQ_CPU_AVX512_AMX;
		}
	}
	return features;
}

#elif defined(__aarch64__)

/* HWCAP_ASIMDDP of the kernel's interface: not all libraries' headers have it */
#define HWCAP_DOTPROD	(1UL << 20)

/* Every 64-bit ARM processor has NEON.  Where the system is not asked, what the compiler was told is true */
static uint32_t
detect_features(void)
{
	uint32_t	features = VQ_CPU_NEON;

#if defined(__linux__)
	if (getauxval(AT_HWCAP) & HWCAP_DOTPROD)
		features |= VQ_CPU_NEON_DOTPROD;
#elif defined(__ARM_FEATURE_DOTPROD)
	features |= VQ_CPU_NEON_DOTPROD;
#endif
	return features;
}

#else

static uint32_t
detect_features(void)
{
	return 0;
}

#endif

uint32_t
vq_cpu_features(void)
{
	/* Set beside the features once they are known; no VQ_CPU_ bit */
	const uint32_t known = 1u << 31;
	static _Atomic uint32_t cache;
	uint32_t	value = atomic_load_explicit(&cache, memory_order_relaxed);

	/* Threads that race here all store the same value */
	if (value == 0)
	{
		value = detect_features() | known;
		atomic_store_explicit(&cache, value, memory_order_relaxed);
	}
	return value & ~known;
}
