{
  "variables": {
    "cuda_image%": "",
    "common_flags": ["-O3", "-Wall", "-Wextra", "-Wno-psabi", "-fno-exceptions", "-fno-rtti", "-ffp-contract=off", "-fvisibility=hidden"],
    "standard": ["-std=c++17"],
    "kernel_flags": ["-fno-threadsafe-statics", "--param", "max-completely-peel-times=64"]
  },
  "target_defaults": {
    "defines": ["NDEBUG"],
    "cflags": ["<@(common_flags)"],
    "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"],
    "cflags_cc": ["<@(standard)"],
    "conditions": [["target_arch=='x64'", { "defines": ["FASTSWITCH_X86_64"] }]],
    "xcode_settings": {
      "CLANG_CXX_LANGUAGE_STANDARD": "c++17",
      "GCC_ENABLE_CPP_EXCEPTIONS": "NO",
      "GCC_OPTIMIZATION_LEVEL": "3",
      "MACOSX_DEPLOYMENT_TARGET": "11.0",
      "OTHER_CPLUSPLUSFLAGS": ["-ffp-contract=off", "-Wall", "-Wextra"]
    }
  },
  "targets": [
    {
      "target_name": "kernels_portable",
      "type": "static_library",
      "sources": ["kernels_portable.cc"],
      "conditions": [["OS=='linux'", { "cflags": ["<@(kernel_flags)"] }]]
    },
    {
      "target_name": "cuda_image",
      "type": "static_library",
      "sources": ["cuda/image.cc"],
      "conditions": [["cuda_image!=''", { "defines": ["FASTSWITCH_CUDA_IMAGE=\"<(cuda_image)\""] }]]
    },
    {
      "target_name": "fastswitch",
      "dependencies": ["kernels_portable", "cuda_image"],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["NAPI_VERSION=9", "NAPI_DISABLE_CPP_EXCEPTIONS", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"],
      "sources": [
        "<!@(node -p \"['.','cuda'].flatMap((at)=>fs.readdirSync(at).filter((name)=>/^(?!kernels_|image[.]).*[.]cc$/.test(name)).map((name)=>at+'/'+name)).join(' ')\")"
      ],
      "conditions": [
        ["OS=='linux'", { "ldflags": ["-Wl,-z,nodelete"], "libraries": ["-ldl"] }],
        ["target_arch=='x64'", {
          "dependencies": ["kernels_avx2", "kernels_avx512"]
        }]
      ]
    }
  ],
  "conditions": [
    ["target_arch=='x64'", {
      "targets": [
        {
          "target_name": "kernels_avx2",
          "type": "static_library",
          "sources": ["kernels_avx2.cc"],
          "cflags": ["-mavx2", "-mfma", "-mf16c"],
          "xcode_settings": { "OTHER_CPLUSPLUSFLAGS": ["-mavx2", "-mfma", "-mf16c"] },
          "conditions": [["OS=='linux'", { "cflags": ["<@(kernel_flags)"] }]]
        },
        {
          "target_name": "kernels_avx512",
          "type": "static_library",
          "sources": ["kernels_avx512.cc"],
          "cflags": [
            "-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx512bf16",
            "-mprefer-vector-width=512",
            "-Wno-uninitialized", "-Wno-maybe-uninitialized"
          ],
          "xcode_settings": {
            "OTHER_CPLUSPLUSFLAGS": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx512bf16"]
          },
          "conditions": [["OS=='linux'", { "cflags": ["<@(kernel_flags)"] }]]
        }
      ]
    }]
  ]
}
