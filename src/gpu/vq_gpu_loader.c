/*-------------------------------------------------------------------------
 *
 * vq_gpu_loader.c
 *	  dlopen of the GPU plug-in, and a check that it speaks this version of
 *	  the interface.
 *
 * Only the backend that builds an index comes here, never the postmaster, so
 * CUDA's libraries and threads are in no other process.
 *
 *-------------------------------------------------------------------------
 */
#define _POSIX_C_SOURCE 200809L /* signal masks, also with -std=c11 */

#include "gpu/vq_gpu_loader.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

__attribute__((format(printf, 2, 3)))
static VqGpuStatus
refuse(VqGpuError *error, const char *format,...)
{
	va_list		arguments;

	va_start(arguments, format);
	vsnprintf(error->message, sizeof(error->message), format, arguments);
	va_end(arguments);
	return VQ_GPU_NO_LIBRARY;
}

/*
 * A folder stands for the library in it.  A name without a folder is made one
 * of this folder, or dlopen would look for it among the system's libraries.
 */
static bool
find_library(const char *path, char *file, size_t file_bytes)
{
	struct stat info;
	int			length;

	if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
		length = snprintf(file, file_bytes, "%s/%s", path, VQ_GPU_LIBRARY);
	else
		length = snprintf(file, file_bytes, "%s%s", strchr(path, '/') == NULL ? "./" : "", path);
	return length >= 0 && (size_t) length < file_bytes;
}

VqGpuStatus
vq_gpu_load(const char *path, VqGpuInterface *interface, VqGpuError *error)
{
	char		file[4096];
	struct stat info;
	sigset_t	all_signals;
	sigset_t	old_signals;
	void	   *library;
	VqGpuEntry	entry = NULL;
	void	   *symbol = NULL;
	const char *reason = NULL;
	VqGpuInterface found;

	memset(interface, 0, sizeof(*interface));
	error->message[0] = '\0';
	if (!find_library(path, file, sizeof(file)))
		return refuse(error, "the name of the folder is too long");
	if (stat(file, &info) != 0)
		return refuse(error, "there is no file \"%s\": vqpg was built or installed without its CUDA part", file);

	sigfillset(&all_signals);
	pthread_sigmask(SIG_BLOCK, &all_signals, &old_signals);
	library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
	if (library != NULL)
		symbol = dlsym(library, VQ_GPU_ENTRY);
	if (symbol == NULL)
		reason = dlerror();
	pthread_sigmask(SIG_SETMASK, &old_signals, NULL);

	if (library == NULL)
		return refuse(error, "could not load \"%s\": %s", file, reason ? reason : "no reason given");
	if (symbol == NULL)
		return refuse(error, "\"%s\" is not a GPU plug-in of vqpg: it has no function %s", file, VQ_GPU_ENTRY);

	/*
	 * ISO C has no conversion from an object pointer to a function pointer,
	 * POSIX has
	 */
	memcpy(&entry, &symbol, sizeof(entry));
	memset(&found, 0, sizeof(found));
	entry(&found, sizeof(found));
	if (found.abi_version != VQ_GPU_ABI_VERSION)
		return refuse(error, "\"%s\" has version %u of the interface, and this vqpg wants version %u",
					  file, (unsigned) found.abi_version, (unsigned) VQ_GPU_ABI_VERSION);
	if (found.bytes < sizeof(found))
		return refuse(error, "\"%s\" has an interface of %u bytes, and this vqpg wants %u",
					  file, (unsigned) found.bytes, (unsigned) sizeof(found));
	*interface = found;
	return VQ_GPU_OK;
}

const char *
vq_gpu_status_name(VqGpuStatus status)
{
	switch (status)
	{
		case VQ_GPU_OK:
			return "ok";
		case VQ_GPU_BAD_ARGUMENT:
			return "bad argument";
		case VQ_GPU_NO_LIBRARY:
			return "no library";
		case VQ_GPU_NO_DEVICE:
			return "no device";
		case VQ_GPU_NO_MEMORY:
			return "no memory";
		case VQ_GPU_STOPPED:
			return "stopped";
		case VQ_GPU_FAILED:
			return "failed";
	}
	return "unknown";
}
