/*-------------------------------------------------------------------------
 *
 * vq_gpu_loader.h
 *	  Opens the GPU plug-in, or says in words why it cannot.
 *
 *-------------------------------------------------------------------------
 */
#ifndef VQ_GPU_LOADER_H
#define VQ_GPU_LOADER_H

#include "gpu/vq_gpu.h"

/*----------
 * Fill interface from the plug-in at path: a file, or a folder in which
 * VQ_GPU_LIBRARY is looked for.  VQ_GPU_OK or VQ_GPU_NO_LIBRARY; the latter
 * leaves interface all zero and the reason in error.
 *
 * The library stays open for as long as the process lives, loaded or refused:
 * what it links registers functions that run at exit.  Loading it again costs
 * nothing.  Signals are blocked meanwhile, so that threads it starts never run
 * a handler of the caller's.
 *----------
 */
extern VqGpuStatus vq_gpu_load(const char *path, VqGpuInterface *interface, VqGpuError *error);

/* A word for a status, for messages and tests */
extern const char *vq_gpu_status_name(VqGpuStatus status);

#endif							/* VQ_GPU_LOADER_H */
