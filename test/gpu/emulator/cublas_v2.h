/*-------------------------------------------------------------------------
 *
 * cublas_v2.h
 *	  The one product that src/gpu asks of cuBLAS, on the CPU.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EMULATED_CUBLAS_V2_H
#define EMULATED_CUBLAS_V2_H

#include "cuda_bf16.h"

enum cublasStatus_t { CUBLAS_STATUS_SUCCESS = 0, CUBLAS_STATUS_ALLOC_FAILED = 3, CUBLAS_STATUS_INVALID_VALUE = 7 };
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32 };
enum cudaDataType { CUDA_R_32F, CUDA_R_16BF };
enum { CUBLAS_GEMM_DEFAULT = -1 };

typedef struct EmulatedCublas *cublasHandle_t;

extern cublasStatus_t cublasCreate(cublasHandle_t *handle);
extern cublasStatus_t cublasDestroy(cublasHandle_t handle);
extern cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream);
extern const char *cublasGetStatusString(cublasStatus_t status);
extern cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
								   int m, int n, int k, const void *alpha, const void *a, cudaDataType type_a, int lda,
								   const void *b, cudaDataType type_b, int ldb, const void *beta,
								   void *c, cudaDataType type_c, int ldc, cublasComputeType_t compute, int algorithm);

#endif							/* EMULATED_CUBLAS_V2_H */
