# The version is written once, in pyproject.toml. scikit-build-core hands it over; a plain CMake build reads the file.
if(SKBUILD_PROJECT_VERSION)
  set(NEARFIELD_VERSION ${SKBUILD_PROJECT_VERSION})
else()
  file(STRINGS ${CMAKE_CURRENT_SOURCE_DIR}/pyproject.toml version_line REGEX "^version = \"")
  string(REGEX REPLACE "^version = \"([0-9.]+).*\"$" "\\1" NEARFIELD_VERSION "${version_line}")
endif()
