# What src/kernels says to a compiler for x86, to one for any processor
s/^VQ_TARGET_BEGIN(.*)$//
s/^VQ_TARGET_END$//
s/__asm__("vpdpbusd %2, %1, %0".*/sums = _mm512_dpbusd_epi32(sums, rows, columns);/
s/__asm__("vpdpbusd %2%{1to16%}, %1, %0".*/int32_t quad; memcpy(\&quad, digits, 4); sums = _mm512_dpbusd_epi32(sums, bytes, _mm512_set1_epi32(quad));/
