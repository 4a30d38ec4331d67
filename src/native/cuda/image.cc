#include "image.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../status.h"

// build.mjs says where the compiled kernels lie; the assembler takes them in as they are. Absent where there was no nvcc.
#ifdef FASTSWITCH_CUDA_IMAGE
asm(".pushsection .rodata\n"
    ".balign 64\n"
    ".globl fastswitchCudaImage\n"
    ".hidden fastswitchCudaImage\n"
    "fastswitchCudaImage:\n"
    ".incbin \"" FASTSWITCH_CUDA_IMAGE "\"\n"
    ".globl fastswitchCudaImageEnd\n"
    ".hidden fastswitchCudaImageEnd\n"
    "fastswitchCudaImageEnd:\n"
    ".byte 0\n"
    ".popsection\n");
extern "C" __attribute__((visibility("hidden"))) const unsigned char fastswitchCudaImage[];
extern "C" __attribute__((visibility("hidden"))) const unsigned char fastswitchCudaImageEnd[];
#endif

namespace fastswitch::cuda {
namespace {

struct Image {
  const void* data = nullptr;
  size_t bytes = 0;
  std::vector<unsigned char> file;
};

void readImage(const char* path, Image* image) {
  FILE* file = std::fopen(path, "rb");
  if (file == nullptr) {
    fail(Status::system, "FASTSWITCH_CUDA_KERNELS: %s cannot be read: %s", path, std::strerror(errno));
    return;
  }
  unsigned char part[1 << 16];
  for (size_t count; (count = std::fread(part, 1, sizeof part, file)) > 0;) image->file.insert(image->file.end(), part, part + count);
  std::fclose(file);
  // Drivers read PTX, which is text, up to a zero.
  image->file.push_back(0);
  image->data = image->file.data();
  image->bytes = image->file.size() - 1;
}

const Image* makeImage() {
  Image* image = new Image;
  const char* path = std::getenv("FASTSWITCH_CUDA_KERNELS");
  if (path != nullptr && *path != '\0') {
    readImage(path, image);
    return image;
  }
#ifdef FASTSWITCH_CUDA_IMAGE
  image->data = fastswitchCudaImage;
  image->bytes = static_cast<size_t>(fastswitchCudaImageEnd - fastswitchCudaImage);
#endif
  return image;
}

}  // namespace

const void* cudaImage(size_t* bytes) {
  static const Image* const image = makeImage();
  *bytes = image->bytes;
  return image->data;
}

}  // namespace fastswitch::cuda
